//! The configuration: one TOML file, read as it is written (`raw`) and checked into [`Config`].
//!
//! A key that is not known is an error that names the nearest right one; a wrong value is an error that
//! names its key. Nothing is guessed and nothing is ignored.

mod raw;
pub mod suggest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

pub use raw::{
    Addresses, Detect, DetectorSettings, Dynamodb, Engine, GeoIp, Guard, Http, LogFormat, Mode, Notify, Privacy,
    Silence, Waf, WebhookFormat,
};

use crate::allow::AllowList;
use crate::logs::LogForm;
use crate::schedule::Schedule;
use crate::session::{Scheme, SchemeError};
use crate::source::{Location, LocationError};
use crate::time::Span;

/// A whole, checked configuration.
#[derive(Debug)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// Every key with the value that is in force, for people to look at.
    pub resolved: toml::Table,
    /// A fixed clock, for demos.
    pub now: Option<DateTime<Utc>>,
    pub state: Location,
    /// How long activity, refusals and credentials are kept.
    pub activity_retention: Span,
    /// How long the lock of a state in S3 lives that is not renewed.
    pub lease: std::time::Duration,
    pub logs: Vec<Logs>,
    pub sessions: Vec<Scheme>,
    pub geoip: GeoIp,
    pub detect: Detect,
    pub detectors: BTreeMap<String, DetectorSettings>,
    pub lists: BTreeMap<String, Vec<String>>,
    pub allow: AllowList,
    pub guard: Guard,
    pub waf: Option<Waf>,
    pub dynamodb: Option<Dynamodb>,
    pub engine: Engine,
    pub schedule: Schedule,
    pub http: Http,
    pub notify: Notify,
    pub privacy: Privacy,
}

/// One place that log objects are read from.
#[derive(Clone, Debug)]
pub struct Logs {
    pub location: Location,
    pub form: LogForm,
    pub lookback: Span,
    /// How long no object may arrive before that is an alarm.
    pub silence: Silence,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the config {path}: {source}; name another with --config or STREAMWARDEN_CONFIG")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: {message}")]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{path}: {key}: {message}")]
    Value { path: PathBuf, key: String, message: String },
    #[error("{path}: [[session]] number {number}: {source}")]
    Session { path: PathBuf, number: usize, source: SchemeError },
    #[error("{path}: [[logs]] number {number}: {source}")]
    Logs { path: PathBuf, number: usize, source: LocationError },
}

/// The environment variable that names the webhook, before the config does.
const WEBHOOK_VARIABLE: &str = "STREAMWARDEN_WEBHOOK";

impl Config {
    /// Reads and checks the configuration at `path`. Relative paths in it are relative to its folder.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let mut config = Config::parse(&text, path)?;
        // A secret need not be in a file that goes into an image or a repository.
        if let Ok(webhook) = std::env::var(WEBHOOK_VARIABLE) {
            config.notify.webhook = Some(webhook);
            config.notify.check().map_err(|(_, message)| ConfigError::Value {
                path: path.to_owned(),
                key: WEBHOOK_VARIABLE.to_owned(),
                message,
            })?;
        }
        Ok(config)
    }

    /// Checks the text of a configuration as if it stood at `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let raw: raw::Config = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let message = suggest::explain(error.message());
            let shown = text.lines().nth(line - 1).map(str::trim).filter(|shown| !shown.is_empty());
            // Of a URL the path may be a secret.
            let shown = shown
                .map(|shown| shown.split_once("://").map_or(shown.to_owned(), |(start, _)| format!("{start}://…")));
            let message = shown.map_or(message.clone(), |shown| format!("{message}, in: {shown}"));
            ConfigError::Syntax { path: path.to_owned(), line, message }
        })?;
        raw.check(path)
    }

    /// The time that the config fixes, or the machine's clock.
    pub fn clock(&self) -> crate::time::Clock {
        self.now.map_or(crate::time::Clock::System, crate::time::Clock::Fixed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "[state]\nlocation = \"state\"\n[[logs]]\nlocation = \"logs\"\n[[session]]\nscheme = \"secure-media-delivery\"\n";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/etc/sw/streamwarden.toml"))
    }

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_those_of_the_design() {
        let config = parse(LEAST).unwrap();
        assert_eq!(config.state, Location::Folder("/etc/sw/state".into()));
        assert_eq!(config.logs[0].lookback, Span::hours(26));
        assert_eq!(config.detect.refused_status, [401, 403]);
        assert_eq!(config.guard.mode, Mode::Enforce);
        assert_eq!(config.guard.max_new_revocations, 50);
        assert_eq!(config.guard.max_share, 0.02);
        assert_eq!(config.guard.max_age, Span::hours(6));
        assert_eq!(config.guard.ttl_growth, 2.0);
        assert_eq!(config.guard.ttl_max, Span::hours(24));
        assert!(!config.guard.enforce_unbound && !config.guard.enforce_derived);
        assert_eq!(config.engine.memory.bytes(), 1_000_000_000);
        assert_eq!(config.schedule.to_string(), "every 1m");
        assert!(config.waf.is_none());
    }

    #[test]
    fn the_configs_of_the_readme_are_right_and_show_the_defaults() {
        let readme = include_str!("../../README.md");
        let blocks = readme.split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap());
        let configs: Vec<Config> =
            blocks.filter(|block| block.contains("[state]")).map(|block| parse(block).unwrap()).collect();
        assert_eq!(configs.len(), 2, "the least and the whole");
        let defaults = parse(LEAST).unwrap().resolved;
        let shown = &configs[1].resolved;
        for section in ["guard", "engine", "http"] {
            assert_eq!(shown[section], defaults[section], "{section}");
        }
        for (section, key) in [
            ("schedule", "every"),
            ("schedule", "timeout"),
            ("notify", "mute"),
            ("privacy", "addresses"),
            ("detect", "refused_status"),
        ] {
            assert_eq!(shown[section].get(key), defaults[section].get(key), "{section}.{key}");
        }
        for key in ["format", "fields", "lookback", "silence"] {
            assert_eq!(shown["logs"][0].get(key), defaults["logs"][0].get(key), "{key}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_right_one() {
        let error = refused(&format!("{LEAST}[guard]\nmax_new_revocation = 3\n"));
        assert!(error.contains("streamwarden.toml:8"), "{error}");
        assert!(
            error.contains("max_new_revocation") && error.contains("did you mean `max_new_revocations`"),
            "{error}"
        );
        let error = refused(&format!("{LEAST}[notify]\nwebhok = \"https://hooks.example.com/secret\"\n"));
        assert!(error.contains("did you mean `webhook`") && !error.contains("secret"), "{error}");
        let error = refused(&format!("[gaurd]\n{LEAST}"));
        assert!(error.contains("did you mean `guard`"), "{error}");
    }

    #[test]
    fn wrong_values_are_refused_with_their_key() {
        for (line, part) in [
            ("[guard]\nmax_share = 1.5", "max_share"),
            ("[[logs]]\nlocation = \"x\"\nformat = \"realtime\"", "needs the fields"),
            ("[[logs]]\nlocation = \"x\"\nfields = [\"c-ip\"]", "missing"),
            ("[[logs]]\nlocation = \"x\"\nformat = \"parquet\"\nfields = [\"timestamp\"]", "only real-time logs"),
            (
                "[guard]\nmax_new_revocations = \"fifty\"",
                "expected a whole number, in: max_new_revocations = \"fifty\"",
            ),
            ("[guard]\nttl_growth = 0.5", "ttl_growth"),
            ("[guard]\nmode = \"block\"", "enforce"),
            ("[guard]\nttl_max = \"soon\"", "soon"),
            ("[detect]\nrefused_status = [200]", "refused_status"),
            ("[engine]\nmemory = \"lots\"", "lots"),
            ("[engine]\nmemory = \"1KB\"", "memory"),
            ("[schedule]\nevery = \"0s\"", "every"),
            ("[waf]\nname = \"my group\"\nid = \"a\"", "waf.name"),
            ("[waf]\nname = \"group\"\nid = \"x\"", "waf.id"),
            ("[waf]\nname = \"group\"", "waf.id"),
            ("[waf]", "waf.name"),
            ("[waf]\ncapacity = 5001", "waf.capacity"),
            ("[waf]\ncapacity = 50\nmanual_share = 10", "waf.manual_share"),
            ("[dynamodb]\ntable = \"a table\"", "dynamodb.table"),
            ("[dynamodb]\ntable = \"SessionToRevoke\"\nregion = \"Frankfurt\"", "dynamodb.region"),
            ("[detectors.many_ips]\nwindow = \"3m\"\nevery = \"5m\"", "longer"),
            ("[detectors.many_ips]\nmax_networks = [1]", "must be a number"),
            ("[lists]\nactivity = [\"x\"]", "activity"),
            ("[lists]\npace = [\"x\"]", "\"pace\" is the name of a table"),
            ("[lists]\nreferer_hosts = [\"x\"]", "is the name of a table"),
            ("[detect]\nsegment_endings = [\"m3u8\"]", "playlists"),
            ("[engine]\nthreads = 2000", "more than 512"),
            ("[guard]\nttl_max = \"100000d\"", "longer than a century"),
            ("[lists]\n\"my list\" = [\"x\"]", "my list"),
            ("[[allow]]\nsession = \"x\"", "reason"),
            ("[[allow]]\nreason = \"x\"", "one of session"),
            ("[[allow]]\nasn = 1\nsession = \"x\"\nreason = \"x\"", "one of session"),
            ("[[allow]]\nreferer = \"https://x.example/\"\nreason = \"x\"", "write \"x.example\""),
            ("[lists]\nown_referers = [\"https://x.example/\"]", "write \"x.example\""),
            ("[lists]\nown_referrers = [\"x.example\"]", "did you mean `own_referers`"),
            ("[[allow]]\nasn = \"mine\"\nreason = \"x\"", "write 64500 or AS64500"),
            ("[[allow]]\nnetwork = \"2001:db8::1\"\nreason = \"x\"", "/64"),
            ("[[allow]]\nasn = 1\nreason = \" \"", "the reason is empty"),
        ] {
            let error = refused(&format!("{LEAST}{line}\n"));
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn a_state_that_is_kept_too_short_is_refused() {
        for (key, part) in [("activity_retention = \"25h\"", "at least 26h"), ("lease = \"1s\"", "at least 2s")] {
            let error = refused(&LEAST.replacen("location = \"state\"", &format!("location = \"state\"\n{key}"), 1));
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_config_without_logs_or_sessions_is_refused() {
        assert!(refused("[state]\nlocation = \"s\"\n").contains("logs"));
        assert!(refused("[state]\nlocation = \"s\"\n[[logs]]\nlocation = \"l\"\n").contains("session"));
        assert!(
            refused("[[logs]]\nlocation = \"l\"\n[[session]]\nscheme = \"secure-media-delivery\"\n").contains("state")
        );
    }
}
