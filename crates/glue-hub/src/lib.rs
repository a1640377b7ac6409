#![doc = include_str!("../README.md")]

mod client;
mod endpoint;
mod error;
mod fetch;
mod listing;
mod select;
mod store;
mod transfer;

pub use client::{CardMessages, HubClient};
pub use endpoint::{Endpoint, Token};
pub use error::HubError;
pub use fetch::{FetchPlan, FetchRequest, Fetched};
pub use listing::{FileHash, Listing, RemoteFile};
pub use select::Selection;
