//! The configuration as it is written, and the checks that turn it into [`super::Config`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ConfigError, Logs, suggest};
use crate::allow::{Allow, AllowList, Allowed};
use crate::content::SegmentEnding;
use crate::detect::catalog::OWN_REFERERS;
use crate::detect::file::{Parameter, Strength};
use crate::detect::{OfEverybody, PACE};
use crate::logs::LogForm;
use crate::logs::fields::{Layout, REALTIME_COLUMNS};
use crate::network_type::{self, parse_asn};
use crate::schedule::{CronTimes, Schedule, Times};
use crate::schema::Table;
use crate::session::{Scheme, SchemeConfig};
use crate::source::Location;
use crate::time::Span;
use crate::viewer::referer_host;
use crate::waf::MAX_CAPACITY;

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default, deserialize_with = "instant")]
    now: Option<DateTime<Utc>>,
    state: State,
    #[serde(default)]
    logs: Vec<LogsEntry>,
    #[serde(default)]
    session: Vec<SchemeConfig>,
    #[serde(default)]
    geoip: GeoIp,
    #[serde(default)]
    detect: Detect,
    #[serde(default)]
    detectors: BTreeMap<String, DetectorSettings>,
    #[serde(default)]
    lists: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    allow: Vec<AllowEntry>,
    #[serde(default)]
    guard: Guard,
    #[serde(default)]
    waf: Option<Waf>,
    #[serde(default)]
    dynamodb: Option<Dynamodb>,
    #[serde(default)]
    engine: Engine,
    #[serde(default)]
    schedule: ScheduleEntry,
    #[serde(default)]
    http: Http,
    #[serde(default)]
    notify: Notify,
    #[serde(default)]
    privacy: Privacy,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct State {
    location: String,
    #[serde(default = "default_retention")]
    activity_retention: Span,
    #[serde(default = "default_lease")]
    lease: Span,
}

/// The number of an autonomous system, as a number or as the lists have it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Asn {
    Number(u32),
    Text(String),
}

impl Asn {
    fn number(&self) -> Result<i64, String> {
        match self {
            Asn::Number(number) => Ok(i64::from(*number)),
            Asn::Text(text) => parse_asn(text).map(i64::from),
        }
    }
}

/// An entry of the allow-list, about one thing.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct AllowEntry {
    #[serde(default)]
    session: Option<String>,
    #[serde(default)]
    network: Option<String>,
    #[serde(default)]
    asn: Option<Asn>,
    #[serde(default)]
    user_agent: Option<String>,
    #[serde(default)]
    referer: Option<String>,
    reason: String,
    #[serde(default, deserialize_with = "instant")]
    until: Option<DateTime<Utc>>,
}

impl AllowEntry {
    fn check(self) -> Result<Allow, String> {
        let what = match (self.session, self.network, self.asn, self.user_agent, self.referer) {
            (Some(session), None, None, None, None) => Allowed::Session(session),
            (None, Some(network), None, None, None) => Allowed::Network(network.parse()?),
            (None, None, Some(asn), None, None) => Allowed::Asn(asn.number()?),
            (None, None, None, Some(agent), None) => Allowed::UserAgent(agent),
            (None, None, None, None, Some(referer)) => Allowed::Referer(host(&referer)?),
            _ => return Err("an entry is about one of session, network, asn, user_agent and referer".to_owned()),
        };
        if self.reason.trim().is_empty() {
            return Err("the reason is empty: say why, whoever looks at it in a year wants to know".to_owned());
        }
        Ok(Allow { what, reason: self.reason, until: self.until })
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct LogsEntry {
    location: String,
    #[serde(default)]
    format: LogFormat,
    #[serde(default)]
    fields: Vec<String>,
    #[serde(default = "default_lookback")]
    lookback: Span,
    #[serde(default)]
    silence: Silence,
}

/// How the log objects of one place are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// By content.
    #[default]
    Auto,
    /// Separated columns: legacy logs, and w3c, plain and raw of v2.
    Standard,
    /// An object a line.
    StandardJson,
    Parquet,
    /// Separated columns that only the config names.
    Realtime,
}

impl LogFormat {
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Auto => "auto",
            LogFormat::Standard => "standard",
            LogFormat::StandardJson => "standard-json",
            LogFormat::Parquet => "parquet",
            LogFormat::Realtime => "realtime",
        }
    }
}

/// MaxMind-format files for logs that carry no country or ASN.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GeoIp {
    #[serde(default)]
    pub country: Option<PathBuf>,
    #[serde(default)]
    pub asn: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Detect {
    /// A folder of detectors beside the built-in ones.
    pub queries: Option<PathBuf>,
    /// The statuses with which the edge's token check refuses.
    pub refused_status: Vec<u16>,
    /// Endings of media segments beside the known ones.
    pub segment_endings: Vec<SegmentEnding>,
}

impl Default for Detect {
    fn default() -> Self {
        Detect { queries: None, refused_status: vec![401, 403], segment_endings: vec![] }
    }
}

/// What the config says of one detector: overrides of its header, and its parameters.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct DetectorSettings {
    #[serde(default)]
    pub window: Option<Span>,
    #[serde(default)]
    pub every: Option<Span>,
    #[serde(default)]
    pub ttl: Option<Span>,
    #[serde(default)]
    pub strength: Option<Strength>,
    #[serde(default)]
    pub mode: Option<Mode>,
    /// Everything else is a parameter; [`crate::detect`] knows which there are.
    #[serde(flatten)]
    pub params: BTreeMap<String, Parameter>,
}

/// What a decision may do; the lesser of the overall mode and the detector's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The detector is not run.
    Off,
    /// History only.
    Observe,
    /// WAF counts matching requests.
    Count,
    /// WAF blocks them.
    #[default]
    Enforce,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Observe => "observe",
            Mode::Count => "count",
            Mode::Enforce => "enforce",
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    pub mode: Mode,
    /// Automatic first blocks of the last hour, at most the greater of this and `max_share`.
    pub max_new_revocations: u64,
    /// Share of the sessions in the evaluated windows.
    pub max_share: f64,
    /// A session that ended longer ago is recorded, not blocked.
    pub max_age: Span,
    pub ttl_growth: f64,
    pub ttl_max: Span,
    /// How long a session that a person restored is safe from automatic blocks.
    pub restore_grace: Span,
    pub enforce_unbound: bool,
    pub enforce_derived: bool,
}

impl Default for Guard {
    fn default() -> Self {
        Guard {
            mode: Mode::Enforce,
            max_new_revocations: 50,
            max_share: 0.02,
            max_age: Span::hours(6),
            ttl_growth: 2.0,
            ttl_max: Span::hours(24),
            restore_grace: Span::hours(24),
            enforce_unbound: false,
            enforce_derived: false,
        }
    }
}

/// The rule group that is kept in step; scope CLOUDFRONT.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Waf {
    pub name: Option<String>,
    pub id: Option<String>,
    /// The share of the capacity that is kept for blocks by hand.
    pub manual_share: f64,
    /// WCUs to plan for where no group can be asked.
    pub capacity: Option<u64>,
}

impl Default for Waf {
    fn default() -> Self {
        Waf { name: None, id: None, manual_share: 0.1, capacity: None }
    }
}

/// The table of Secure Media Delivery from which manual revocations are taken in.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Dynamodb {
    /// Its name or ARN.
    pub table: String,
    /// Its Region, where that is not the one of the environment.
    pub region: Option<String>,
}

/// More threads than any machine has that this is for; each takes memory and a share of every window.
const MOST_THREADS: usize = 512;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// What queries may hold in memory before they spill to disk.
    pub memory: ByteSize,
    /// 0: all cores.
    pub threads: usize,
}

impl Default for Engine {
    fn default() -> Self {
        Engine { memory: ByteSize(1_000_000_000), threads: 0 }
    }
}

/// When the daemon works.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct ScheduleEntry {
    every: Option<Span>,
    cron: Option<String>,
    timeout: Span,
}

impl Default for ScheduleEntry {
    fn default() -> Self {
        ScheduleEntry { every: None, cron: None, timeout: Span::hours(2) }
    }
}

impl ScheduleEntry {
    fn check(self) -> Result<Schedule, (&'static str, String)> {
        if self.timeout.is_zero() {
            return Err(("timeout", "must be longer than nothing".into()));
        }
        let times = match (self.every, self.cron) {
            (Some(_), Some(_)) => {
                return Err(("cron", "every and cron are two ways to say the same: write one of them".into()));
            }
            (_, Some(pattern)) => Times::Cron(CronTimes::parse(&pattern).map_err(|message| ("cron", message))?),
            (Some(every), None) if every.is_zero() => return Err(("every", "must be longer than nothing".into())),
            (every, None) => Times::Every(every.unwrap_or(Span::minutes(1))),
        };
        Ok(Schedule { times, timeout: self.timeout })
    }
}

/// Where the daemon answers HTTP.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// An address with a port, or `off`; none: 127.0.0.1:9464, if it is free.
    pub listen: Option<String>,
}

impl Http {
    /// What is written for no HTTP at all.
    pub const OFF: &str = "off";

    fn check(&self) -> Result<(), String> {
        match self.listen.as_deref() {
            None | Some(Http::OFF) => Ok(()),
            Some(listen) => listen.parse::<std::net::SocketAddr>().map(|_| ()).map_err(|_| {
                format!("{listen:?} is no address with a port such as 127.0.0.1:9464 or [::]:9464, nor \"off\"")
            }),
        }
    }
}

/// Who is told of what happened.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// ARN of an SNS topic.
    pub sns: Option<String>,
    /// A URL that takes JSON. Its path is a secret.
    pub webhook: Option<String>,
    /// None: by the host of the webhook.
    pub webhook_format: Option<WebhookFormat>,
    /// For how long the same alarm is not told again.
    pub mute: Span,
}

impl Default for Notify {
    fn default() -> Self {
        Notify { sns: None, webhook: None, webhook_format: None, mute: Span::hours(1) }
    }
}

/// What a webhook is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookFormat {
    /// All there is to say, key by key.
    Json,
    /// A message as Slack takes it (also Mattermost, Rocket.Chat, Google Chat).
    Slack,
}

impl Notify {
    /// The form of an ARN of SNS, and URLs that can be posted to.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(arn) = &self.sns {
            let parts: Vec<&str> = arn.split(':').collect();
            let right = matches!(parts.as_slice(), ["arn", partition, "sns", region, account, topic]
                if partition.starts_with("aws") && !region.is_empty() && account.len() == 12 && !topic.is_empty());
            if !right {
                let message =
                    format!("{arn:?} is no ARN of an SNS topic, as arn:aws:sns:eu-west-1:123456789012:streamwarden");
                return Err(("sns", message));
            }
        }
        if let Some(webhook) = &self.webhook {
            // What is wrong with it is said without it: its path is a secret.
            let url = url::Url::parse(webhook).map_err(|error| ("webhook", format!("it is no URL: {error}")))?;
            if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
                return Err(("webhook", "it is no http:// or https:// URL".into()));
            }
        }
        Ok(())
    }
}

/// What is stored of viewers' addresses.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Privacy {
    pub addresses: Addresses,
    /// A file with the key of `hash`; none: a key that is made with the state and kept there.
    pub key_file: Option<PathBuf>,
}

/// The form in which addresses and networks are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Addresses {
    /// As they are in the logs.
    #[default]
    Keep,
    /// IPv4 cut to /24, IPv6 to /48: neighbours become one network, so detectors find less.
    Truncate,
    /// A keyed digest in place of each network: detectors work alike, nobody can read who it was without the key.
    Hash,
}

/// How long no object may arrive at a place before that is an alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Silence {
    /// Much longer than is usual there.
    #[default]
    Auto,
    After(Span),
    Off,
}

impl Serialize for Silence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Silence::Auto => serializer.serialize_str("auto"),
            Silence::Off => serializer.serialize_str("off"),
            Silence::After(span) => span.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Silence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "auto" => Ok(Silence::Auto),
            "off" => Ok(Silence::Off),
            span => span
                .parse()
                .map(Silence::After)
                .map_err(|error| serde::de::Error::custom(format!("{error}; or \"auto\" or \"off\""))),
        }
    }
}

/// A number of bytes, written as `500MB`, `1GB` (powers of ten) or `512MiB`, `1GiB` (powers of two).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(u64);

impl ByteSize {
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("B", 1)];
        let (unit, bytes) =
            units.into_iter().find(|(_, bytes)| self.0.is_multiple_of(*bytes)).expect("all are whole bytes");
        serializer.serialize_str(&format!("{}{unit}", self.0 / bytes))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let unit: Option<u64> = match text[digits..].trim() {
            "B" => Some(1),
            "KB" => Some(1_000),
            "MB" => Some(1_000_000),
            "GB" => Some(1_000_000_000),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        let number: Option<u64> = text[..digits].parse().ok();
        number
            .zip(unit)
            .and_then(|(number, unit)| number.checked_mul(unit))
            .map(ByteSize)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a size such as 500MB, 1GB or 512MiB")))
    }
}

impl LogsEntry {
    /// How its objects are written.
    fn form(&self) -> Result<LogForm, String> {
        let realtime = match (self.format, self.fields.as_slice()) {
            (LogFormat::Realtime, []) => {
                return Err("format = \"realtime\" needs the fields of the real-time log configuration, in order: records do not \
                            name them (`aws cloudfront get-realtime-log-config` shows them)"
                    .to_owned());
            }
            (_, []) => None,
            (LogFormat::Auto | LogFormat::Realtime, fields) => {
                for field in fields {
                    if !REALTIME_COLUMNS.contains(field) {
                        let message = format!("{field:?} is no field of real-time logs");
                        let names = REALTIME_COLUMNS.iter().map(String::as_str);
                        return Err(suggest::did_you_mean(message, field, names));
                    }
                }
                let layout = Layout::new(fields.iter().map(String::as_str))?;
                if fields.first().map(String::as_str) != Some("timestamp") {
                    return Err("records of real-time logs begin with the timestamp: put it first".to_owned());
                }
                Some(layout)
            }
            (other, _) => return Err(format!("only real-time logs need fields, not format = \"{}\"", other.name())),
        };
        Ok(LogForm { format: self.format, realtime })
    }
}

fn default_retention() -> Span {
    Span::hours(72)
}

fn default_lease() -> Span {
    Span::minutes(1)
}

fn default_lookback() -> Span {
    Span::hours(26)
}

/// A TOML date-time or a text, RFC 3339 either way.
fn instant<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    #[derive(Deserialize, Serialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Date(toml::value::Datetime),
    }
    let text = match Written::deserialize(deserializer)? {
        Written::Text(text) => text,
        Written::Date(date) => date.to_string(),
    };
    crate::time::parse_instant(&text).map(Some).map_err(serde::de::Error::custom)
}

impl Config {
    /// Every key with the value that is in force. What is secret is not among it.
    fn resolved(&self, folder: &Path) -> Result<toml::Table, toml::ser::Error> {
        let mut resolved = toml::Table::try_from(self)?;
        let absolute = |value: &mut toml::Value| {
            if let Some(text) = value.as_str() {
                *value = match Location::parse(text, folder) {
                    Ok(location) => location.to_string().into(),
                    Err(_) => folder.join(text).display().to_string().into(),
                };
            }
        };
        for (section, keys) in [
            ("state", ["location", ""]),
            ("geoip", ["country", "asn"]),
            ("detect", ["queries", ""]),
            ("privacy", ["key_file", ""]),
        ] {
            let section = resolved.get_mut(section).and_then(toml::Value::as_table_mut);
            section.into_iter().flat_map(|section| section.iter_mut()).for_each(|(key, value)| {
                if keys.contains(&key.as_str()) {
                    absolute(value);
                }
            });
        }
        let logs = resolved.get_mut("logs").and_then(toml::Value::as_array_mut);
        logs.into_iter().flatten().filter_map(|logs| logs.get_mut("location")).for_each(absolute);
        for (section, key, default) in [("schedule", "every", "1m"), ("http", "listen", crate::daemon::HTTP_DEFAULT)] {
            let Some(section) = resolved.get_mut(section).and_then(toml::Value::as_table_mut) else { continue };
            if !section.contains_key(key) && !section.contains_key("cron") {
                section.insert(key.to_owned(), default.into());
            }
        }
        if let Some(webhook) = resolved.get_mut("notify").and_then(|notify| notify.get_mut("webhook")) {
            let host = webhook.as_str().and_then(|url| url::Url::parse(url).ok()?.host_str().map(str::to_owned));
            *webhook = format!("(secret) at {}", host.unwrap_or_default()).into();
        }
        Ok(resolved)
    }

    pub fn check(self, path: &Path) -> Result<super::Config, ConfigError> {
        let wrong =
            |key: &str, message: String| ConfigError::Value { path: path.to_owned(), key: key.to_owned(), message };
        // An absolute folder, so that the ledger names a place the same way wherever a run is started.
        let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = file.parent().unwrap_or(Path::new("/"));
        let resolve = |relative: PathBuf| folder.join(relative);

        let resolved = self.resolved(folder).map_err(|error| wrong("config", error.to_string()))?;
        if self.logs.is_empty() {
            return Err(wrong("logs", "at least one [[logs]] with a location is needed".into()));
        }
        if self.session.is_empty() {
            return Err(wrong("session", "at least one [[session]] with a scheme is needed".into()));
        }
        let state = Location::parse(&self.state.location, folder)
            .map_err(|error| wrong("state.location", error.to_string()))?;
        if self.state.activity_retention < Span::hours(26) {
            let message =
                "must be at least 26h: objects arrive up to a day late, and their windows are evaluated again";
            return Err(wrong("state.activity_retention", message.into()));
        }
        if self.state.lease < Span::seconds(2) {
            return Err(wrong("state.lease", "must be at least 2s".into()));
        }
        let mut logs = Vec::new();
        for (index, entry) in self.logs.into_iter().enumerate() {
            let location = Location::parse(&entry.location, folder).map_err(|source| ConfigError::Logs {
                path: path.to_owned(),
                number: index + 1,
                source,
            })?;
            if state.as_folder().overlaps(&location) {
                let message = format!("{state} and the logs in {location} must not be one below the other");
                return Err(wrong("state.location", message));
            }
            let form = entry.form().map_err(|message| wrong("logs.fields", message))?;
            logs.push(Logs { location, form, lookback: entry.lookback, silence: entry.silence });
        }
        let mut sessions = Vec::new();
        for (index, entry) in self.session.into_iter().enumerate() {
            let scheme = Scheme::try_from(entry).map_err(|source| ConfigError::Session {
                path: path.to_owned(),
                number: index + 1,
                source,
            })?;
            sessions.push(scheme);
        }
        if self.engine.threads > MOST_THREADS {
            return Err(wrong("engine.threads", format!("{} are more than {MOST_THREADS}", self.engine.threads)));
        }
        for status in &self.detect.refused_status {
            if !(400..=599).contains(status) {
                return Err(wrong("detect.refused_status", format!("{status} is not an error status (400 to 599)")));
            }
        }
        for (name, settings) in &self.detectors {
            settings.check().map_err(|message| wrong(&format!("detectors.{name}"), message))?;
        }
        for name in self.lists.keys() {
            check_list_name(name).map_err(|message| wrong(&format!("lists.{name}"), message))?;
        }
        for own in self.lists.get(OWN_REFERERS).into_iter().flatten() {
            host(own).map_err(|message| wrong(&format!("lists.{OWN_REFERERS}"), message))?;
        }
        let allow: Result<Vec<Allow>, String> = self.allow.into_iter().map(AllowEntry::check).collect();
        let allow = allow.map_err(|message| wrong("allow", message))?;
        self.guard.check().map_err(|(key, message)| wrong(&format!("guard.{key}"), message))?;
        if let Some(waf) = &self.waf {
            waf.check().map_err(|(key, message)| wrong(&format!("waf.{key}"), message))?;
        }
        if let Some(dynamodb) = &self.dynamodb {
            dynamodb.check().map_err(|(key, message)| wrong(&format!("dynamodb.{key}"), message))?;
        }
        if self.engine.memory.bytes() < 64_000_000 {
            return Err(wrong("engine.memory", "at least 64MB are needed".into()));
        }
        let schedule = self.schedule.check().map_err(|(key, message)| wrong(&format!("schedule.{key}"), message))?;
        self.http.check().map_err(|message| wrong("http.listen", message))?;
        self.notify.check().map_err(|(key, message)| wrong(&format!("notify.{key}"), message))?;
        if self.privacy.key_file.is_some() && self.privacy.addresses != Addresses::Hash {
            return Err(wrong("privacy.key_file", "only addresses = \"hash\" has a key".into()));
        }
        Ok(super::Config {
            path: path.to_owned(),
            resolved,
            now: self.now,
            state,
            activity_retention: self.state.activity_retention,
            lease: self.state.lease.as_std(),
            logs,
            sessions,
            geoip: GeoIp { country: self.geoip.country.map(resolve), asn: self.geoip.asn.map(resolve) },
            detect: Detect { queries: self.detect.queries.map(resolve), ..self.detect },
            detectors: self.detectors,
            lists: self.lists,
            allow: AllowList(allow),
            guard: self.guard,
            waf: self.waf,
            dynamodb: self.dynamodb,
            engine: self.engine,
            schedule,
            http: self.http,
            notify: self.notify,
            privacy: Privacy { key_file: self.privacy.key_file.map(resolve), ..self.privacy },
        })
    }
}

impl DetectorSettings {
    fn check(&self) -> Result<(), String> {
        if let (Some(window), Some(every)) = (self.window, self.every) {
            crate::detect::window::check_lengths(window, every)?;
        }
        if self.ttl.is_some_and(Span::is_zero) {
            return Err("ttl must be longer than nothing".into());
        }
        Ok(())
    }
}

impl Guard {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if !(0.0..=1.0).contains(&self.max_share) {
            return Err(("max_share", format!("{} is not a share between 0 and 1", self.max_share)));
        }
        if !(1.0..=100.0).contains(&self.ttl_growth) {
            return Err(("ttl_growth", format!("{} is not a factor between 1 and 100", self.ttl_growth)));
        }
        if self.ttl_max.is_zero() {
            return Err(("ttl_max", "must be longer than nothing".into()));
        }
        Ok(())
    }
}

impl Waf {
    /// The group to keep in step, if one is named: its name and id.
    pub fn group(&self) -> Option<(&str, &str)> {
        self.name.as_deref().zip(self.id.as_deref())
    }

    /// The forms that the WAF API takes (`EntityName`, `EntityId`).
    fn check(&self) -> Result<(), (&'static str, String)> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        match (&self.name, &self.id) {
            (Some(_), None) => return Err(("id", "the group's id is needed beside its name".into())),
            (None, Some(_)) => return Err(("name", "the group's name is needed beside its id".into())),
            (None, None) if self.capacity.is_none() => {
                return Err(("name", "name and id of the rule group are needed".into()));
            }
            _ => {}
        }
        if let Some(name) = &self.name
            && (name.is_empty() || name.len() > 128 || !name.chars().all(word))
        {
            return Err(("name", format!("{name:?} is not a rule group's name (1 to 128 of A-Z a-z 0-9 _ -)")));
        }
        if let Some(id) = &self.id
            && uuid::Uuid::parse_str(id).is_err()
        {
            return Err((
                "id",
                format!(
                    "{id:?} is not a rule group's id (a UUID: `aws wafv2 list-rule-groups --scope CLOUDFRONT --region us-east-1` shows it)"
                ),
            ));
        }
        if !(0.0..=1.0).contains(&self.manual_share) {
            return Err(("manual_share", format!("{} is not a share between 0 and 1", self.manual_share)));
        }
        if let Some(capacity) = self.capacity
            && !(1..=MAX_CAPACITY).contains(&capacity)
        {
            return Err(("capacity", format!("{capacity} is not a rule group's capacity (1 to {MAX_CAPACITY})")));
        }
        Ok(())
    }
}

impl Dynamodb {
    /// The forms that the DynamoDB API takes (`TableName`, `TableArn`).
    fn check(&self) -> Result<(), (&'static str, String)> {
        let name = self.table.rsplit(":table/").next().unwrap_or_default();
        let word = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let is_arn = self.table.starts_with("arn:") && self.table.contains(":table/");
        if !(3..=255).contains(&name.len()) || !name.chars().all(word) || (name != self.table && !is_arn) {
            return Err(("table", format!("{:?} is neither a table's name nor its ARN", self.table)));
        }
        if let Some(region) = &self.region
            && (region.is_empty() || !region.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'))
        {
            return Err(("region", format!("{region:?} is no AWS Region")));
        }
        Ok(())
    }
}

/// A host as `referer_host` has it.
fn host(text: &str) -> Result<String, String> {
    let host = text.to_ascii_lowercase();
    match referer_host(text) {
        Some(same) if same == host => Ok(host),
        Some(other) => Err(format!("{text:?} is no host: write {other:?}")),
        None => Err(format!("{text:?} is no host: write it alone, as \"example.com\"")),
    }
}

/// Tables that statements make for others, beside those of [`OfEverybody`].
const RESERVED: [&str; 10] =
    [PACE, "asked", "candidates", "cutoffs", "loaded_activity", "looked_at", "parts", "resumed", "touched", "uncut"];

/// A list is a table for detectors, so its name is a plain SQL name that no other table has.
fn check_list_name(name: &str) -> Result<(), String> {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !plain {
        return Err(format!("{name:?} cannot name a list: use a-z, 0-9 and _, a letter first"));
    }
    // One letter more or less: the list that was meant would be empty.
    let known = [OWN_REFERERS].into_iter().chain(network_type::LISTS.map(|(name, _)| name));
    if let Some(meant) = known.into_iter().find(|known| strsim::damerau_levenshtein(known, name) == 1) {
        return Err(format!("{name:?} is no list that anything reads; did you mean `{meant}`?"));
    }
    let is_made = RESERVED.contains(&name) || OfEverybody::ALL.iter().any(|table| table.name() == name);
    if is_made || name.starts_with("stored_") || Table::ALL.iter().any(|table| table.name() == name) {
        return Err(format!("{name:?} is the name of a table"));
    }
    Ok(())
}
