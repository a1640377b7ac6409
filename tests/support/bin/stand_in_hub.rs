//! Runs the stand-in for the hub until its standard input ends: `stand-in-hub ROOT` prints the address.

use glue_tests::hub::StandIn;
use std::io::{self, Read};

fn main() -> io::Result<()> {
    let root = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: stand-in-hub ROOT"))?;
    let hub = StandIn::start(root)?;
    println!("{}", hub.url());
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}
