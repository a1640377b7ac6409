//! `glue search-worker`: a process that scores candidates for `glue search --workers`.

use super::device::Device;
use super::recipes::{self, FollowLinks};
use super::search::{self, Merging};
use crate::app::Global;
use crate::failure::Failure;
use crate::shell::Shell;
use glue_cuda::DeviceUse;
use glue_merge::Registry;
use glue_progress::CancelToken;
use glue_select::config::SearchConfig;
use glue_select::contract::Scorer;
use glue_select::workers::serve;
use std::io::{self, BufReader};

/// Score candidates for glue search: requests on standard input, answers on standard output
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    links: FollowLinks,

    #[command(flatten)]
    device: Device,
}

/// Reads requests from standard input until it ends, and answers on standard output. `setup` is a config.
pub(crate) fn run(args: &Args, global: &Global, registry: &Registry, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let pool = recipes::pool(global)?;
    let executor = args.device.open(DeviceUse::Search, shell)?;
    // Ctrl-C in a terminal goes to all processes; the parent process ends this one.
    let _ = shell.cancel_token();
    let make = |setup: &serde_json::Value| -> Result<Box<dyn Scorer>, String> {
        let config: SearchConfig = serde_json::from_value(setup.clone()).map_err(|error| error.to_string())?;
        search::local(
            &config,
            Merging { registry, executor: executor.clone(), links: args.links.get(), threads: None },
            CancelToken::default(),
        )
    };
    let input = BufReader::new(io::stdin());
    pool.install(|| serve(input, io::stdout(), make)).map_err(Failure::failed)
}
