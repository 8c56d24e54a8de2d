//! `streamwarden notify test`: whether messages arrive.

use super::print;
use crate::alarm::Ending;
use crate::cli::{Common, UsageError};
use crate::notify::Notifier;
use crate::text::printable;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Send a test message to every channel of the config.
    Test,
}

pub async fn run(common: &Common, args: Args) -> anyhow::Result<Ending> {
    let Action::Test = args.action;
    let config = common.load()?;
    let notifier = Notifier::connect(&config).await;
    let notifier = notifier
        .ok_or_else(|| UsageError("the config names nobody to notify: put sns or webhook into [notify]".to_owned()))?;
    let mut exit = Ending::Done;
    for (channel, result) in notifier.test(common.clock(&config).now()).await {
        match result {
            Ok(()) => print(&format!("sent to {channel}\n"))?,
            Err(reason) => {
                print(&format!("NOT sent to {channel}: {}\n", printable(&reason)))?;
                exit = Ending::Failed;
            }
        }
    }
    Ok(exit)
}
