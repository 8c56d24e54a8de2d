//! The command line: what there is to say, and what the exit codes mean.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use tracing::Instrument;

use crate::alarm::Ending;
use crate::cmd;
use crate::config::{Config, ConfigError};
use crate::daemon;
use crate::detect::catalog::CatalogError;
use crate::geo::GeoError;
use crate::replay::baseline::BaselineError;
use crate::replay::labels::LabelsError;
use crate::store::StoreError;
use crate::time::{Clock, parse_instant};

/// Finds playback sessions that are shared or pirated, in CloudFront access logs, and blocks them in AWS WAF.
///
/// Results go to stdout, logs and progress to stderr. Exit code 0: done; 1: failed; 2: wrong usage or config;
/// 3: done, but a person should look; 4: another run holds the state.
#[derive(Debug, Parser)]
#[command(name = "streamwarden", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
pub struct Common {
    /// The config file.
    #[arg(long, global = true, env = "STREAMWARDEN_CONFIG", default_value = "streamwarden.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// The time to take for now, RFC 3339; else `now` of the config, else the clock.
    #[arg(long, global = true, env = "STREAMWARDEN_NOW", value_name = "TIME", value_parser = parse_instant)]
    pub now: Option<DateTime<Utc>>,
    /// How logs are written to stderr.
    #[arg(long, global = true, env = "STREAMWARDEN_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Of this call; every line of its logs has it.
    #[arg(skip = new_run_id())]
    pub run_id: String,
}

/// Identity of a run.
pub fn new_run_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    /// An object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One pass: read new logs, detect, record revocations, bring the WAF rule group in step.
    Run(cmd::run::Args),
    /// A pass at the times of `[schedule]`, until SIGTERM or SIGINT; health and metrics by HTTP.
    Daemon,
    /// Detect over any logs, with nothing written and nothing sent.
    Replay(cmd::replay::Args),
    /// SQL over every table.
    Query(cmd::query::Args),
    /// What was revoked, extended, expired, held, observed, and why.
    History(cmd::history::Args),
    /// One session: who used it, from where and when, what each detector says, whether it is blocked and why.
    Explain(cmd::explain::Args),
    /// Block sessions by hand.
    Revoke(cmd::by_hand::RevokeArgs),
    /// End blocks, and let held sessions go; automatic detection leaves them alone for a while.
    Restore(cmd::by_hand::RestoreArgs),
    /// The WAF rule group: what it should hold, bring it in step, what it holds.
    Waf(cmd::waf::Args),
    /// Everything tried without changing anything: config, logs, state, WAF, clock, detectors; with the mend for what fails.
    Check(cmd::check::Args),
    /// The channels of `[notify]`.
    Notify(cmd::notify::Args),
    /// A completion script for a shell, to stdout.
    Completions(cmd::completions::Args),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

/// The command line is right, but what it asks for makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl Common {
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.config)
    }

    /// The time for now: `--now` or its environment variable, the config, the machine's clock.
    pub fn clock(&self, config: &Config) -> Clock {
        self.now.map_or_else(|| config.clock(), Clock::Fixed)
    }
}

/// Parses the command line, runs the command and gives its exit code.
pub fn main() -> ExitCode {
    forget_empty_variables();
    let cli = Cli::parse();
    let log_format = cli.common.log_format;
    start_logging(log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(log_format, &format!("cannot start: {error}"));
            return ExitCode::from(1);
        }
    };
    // The daemon's passes have ids of their own.
    let span = match cli.command {
        Command::Daemon => tracing::Span::none(),
        _ => run_span(&cli.common.run_id),
    };
    let result = runtime.block_on(run(cli).instrument(span.clone()));
    let _in_run = span.enter();
    // What a pass that was cut off has left behind goes on until the process ends, which is as safe as a kill. To shut the runtime
    // down would cancel what the Delta library waits for, and it panics then.
    std::mem::forget(runtime);
    match result {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::Failed) => ExitCode::from(1),
        Ok(Ending::Attention) => ExitCode::from(3),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(log_format, &describe(&error));
            ExitCode::from(code_of(&error))
        }
    }
}

/// A variable of ours without a value is one that nobody has set, as in a file of variables that are filled in where they are needed.
fn forget_empty_variables() {
    let is_ours = |name: &std::ffi::OsString| name.to_str().is_some_and(|name| name.starts_with("STREAMWARDEN_"));
    let empty = std::env::vars_os().filter(|(name, value)| value.is_empty() && is_ours(name));
    for (name, _) in empty.collect::<Vec<_>>() {
        // SAFETY: there is no other thread yet that could read the environment.
        unsafe { std::env::remove_var(name) };
    }
}

/// What every line of a run's logs has.
pub fn run_span(run_id: &str) -> tracing::Span {
    tracing::info_span!("run", run_id)
}

/// The command line, for what is made from it.
pub fn command_line() -> clap::Command {
    Cli::command()
}

async fn run(cli: Cli) -> anyhow::Result<Ending> {
    match cli.command {
        Command::Run(args) => cmd::run::run(&cli.common, args).await,
        Command::Daemon => daemon::run(&cli.common).await,
        Command::Replay(args) => cmd::replay::run(&cli.common, args).await,
        Command::Query(args) => cmd::query::run(&cli.common, args).await,
        Command::History(args) => cmd::history::run(&cli.common, args).await,
        Command::Explain(args) => cmd::explain::run(&cli.common, args).await,
        Command::Revoke(args) => cmd::by_hand::revoke(&cli.common, args).await,
        Command::Restore(args) => cmd::by_hand::restore(&cli.common, args).await,
        Command::Waf(args) => cmd::waf::run(&cli.common, args).await,
        Command::Check(args) => cmd::check::run(&cli.common, args).await,
        Command::Notify(args) => cmd::notify::run(&cli.common, args).await,
        Command::Completions(args) => cmd::completions::run(args),
    }
}

fn code_of(error: &anyhow::Error) -> u8 {
    if matches!(error.downcast_ref::<StoreError>(), Some(StoreError::Locked(_))) {
        return 4;
    }
    let config = error.is::<ConfigError>() || error.is::<CatalogError>() || error.is::<GeoError>();
    let input = error.is::<LabelsError>() || error.is::<BaselineError>() || error.is::<UsageError>();
    if config || input { 2 } else { 1 }
}

/// The error and what lies behind it. Many errors name their cause themselves: it is not told twice.
fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Says why the program ends: to a person, or to whoever reads the log.
fn tell(log_format: LogFormat, message: &str) {
    use std::io::Write;
    let message = crate::text::printable(message);
    match log_format {
        LogFormat::Text => drop(writeln!(Stderr, "streamwarden: {message}")),
        LogFormat::Json => tracing::error!("{message}"),
    }
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}

/// Logs go to stderr: of ours what an operator should know, of libraries errors; `RUST_LOG` says otherwise. The kernel of the Delta
/// library logs each error that it gives back, without a message.
fn start_logging(format: LogFormat) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("error,buoyant_kernel=off,streamwarden=info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Stderr::default)
        // Else a failed write is printed to the same place, and panics there.
        .log_internal_errors(false)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).with_span_list(false).init(),
    }
}

/// The standard error; what cannot be written there is given up: a full disk or a reader that has gone must not
/// stop a pass.
#[derive(Default)]
struct Stderr;

impl std::io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = std::io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A path on the command line as a location: relative to the working folder, unlike those of the config.
pub fn location(text: &str) -> anyhow::Result<crate::source::Location> {
    let folder = std::env::current_dir().unwrap_or_else(|_| Path::new("/").to_owned());
    crate::source::Location::parse(text, &folder).map_err(|error| UsageError(error.to_string()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
