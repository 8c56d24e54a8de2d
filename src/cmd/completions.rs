//! `streamwarden completions`: what a shell needs to complete commands and flags.

use super::print;
use crate::alarm::Ending;
use crate::cli;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub fn run(args: Args) -> anyhow::Result<Ending> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command_line(), "streamwarden", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(Ending::Done)
}
