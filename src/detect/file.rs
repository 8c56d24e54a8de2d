//! A detector file: a comment header in TOML, then one SELECT.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use datafusion::common::ScalarValue;
use serde::{Deserialize, Serialize};

use super::statement::Planned;
use crate::config::suggest::{did_you_mean, explain};
use crate::config::{DetectorSettings, Mode};
use crate::time::Span;

/// The file as it is written.
#[derive(Clone, Debug)]
pub struct DetectorFile {
    /// File name without its ending; the detector's identity everywhere.
    pub name: String,
    /// Where the file is, for messages.
    pub path: String,
    pub header: Header,
    /// Whole text: the header is a comment to SQL, so that lines are those of the file.
    pub sql: String,
}

/// What the header says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub detector: About,
    #[serde(default)]
    pub params: BTreeMap<String, Parameter>,
    /// What a session must have several of in the window, at least: who has fewer cannot be found, and is not looked at.
    #[serde(default)]
    pub needs: BTreeMap<Variety, Need>,
    /// The least values of parameters that must not be less.
    #[serde(default)]
    pub least: BTreeMap<String, i64>,
    /// Columns of the result and the parameters that they are measured by: what `explain` tells of near misses.
    #[serde(default)]
    pub thresholds: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    pub description: String,
    /// Kind of evidence: two mediums must differ in it to revoke.
    pub family: String,
    /// Unless the result has a column `strength`.
    pub strength: Strength,
    /// Length of the sliding window.
    pub window: Span,
    /// How far it slides.
    pub every: Span,
    /// The first block; repeats grow it.
    pub ttl: Span,
    pub scope: Scope,
    #[serde(default)]
    pub mode: Option<Mode>,
    pub false_positives: String,
}

/// Which sessions a row of the result depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// On its own session only.
    Session,
    /// On others too: on a median, say.
    All,
}

/// What the rows of `activity` of one session can be different in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variety {
    Networks,
    Countries,
    Operators,
    UserAgents,
    Contents,
    Referers,
}

impl Variety {
    pub const ALL: [Variety; 6] = [
        Variety::Networks,
        Variety::Countries,
        Variety::Operators,
        Variety::UserAgents,
        Variety::Contents,
        Variety::Referers,
    ];

    /// The column of `activity` that has the values.
    pub fn column(self) -> &'static str {
        match self {
            Variety::Networks => "network",
            Variety::Countries => "country",
            Variety::Operators => "asn",
            Variety::UserAgents => "user_agent",
            Variety::Contents => "content",
            Variety::Referers => "referer_host",
        }
    }
}

/// How many: a number, or a parameter that has it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    Number(u32),
    Parameter(String),
}

/// How many different values, in the window or in single minutes of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(
    untagged,
    expecting = "what a detector needs is a number, the name of a parameter, or { several = ..., in_minutes = [...] }"
)]
pub enum Need {
    InWindow(Amount),
    /// In each of so many minutes, which are the least of these amounts.
    InMinutes {
        several: Amount,
        in_minutes: Vec<Amount>,
    },
}

impl Need {
    /// The parameters that it names.
    fn parameters(&self) -> impl Iterator<Item = &str> {
        let (one, more) = match self {
            Need::InWindow(amount) => (amount, &[][..]),
            Need::InMinutes { several, in_minutes } => (several, &in_minutes[..]),
        };
        std::iter::once(one).chain(more).filter_map(|amount| match amount {
            Amount::Number(_) => None,
            Amount::Parameter(name) => Some(name.as_str()),
        })
    }
}

/// What a session must have to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Needed {
    /// So many different values; 0: whatever it has.
    pub values: u32,
    /// In each of so many minutes; 0: in the window.
    pub minutes: u32,
}

/// What a session must have to be looked at, by the place of the [`Variety`].
pub type Needs = [Needed; Variety::ALL.len()];

/// How much a finding weighs, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strength {
    /// Evidence only.
    Weak,
    /// Revokes with another of a different family.
    Medium,
    /// Revokes.
    Strong,
}

impl Strength {
    pub fn name(self) -> &'static str {
        match self {
            Strength::Weak => "weak",
            Strength::Medium => "medium",
            Strength::Strong => "strong",
        }
    }
}

/// A parameter's value.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged, expecting = "the value of a parameter must be a number, a text, true or false")]
pub enum Parameter {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Parameter::Bool(value) => write!(f, "{value}"),
            Parameter::Int(value) => write!(f, "{value}"),
            Parameter::Float(value) => write!(f, "{value:?}"),
            Parameter::Text(value) => write!(f, "{value:?}"),
        }
    }
}

impl Parameter {
    pub fn scalar(&self) -> ScalarValue {
        match self {
            Parameter::Bool(value) => ScalarValue::Boolean(Some(*value)),
            Parameter::Int(value) => ScalarValue::Int64(Some(*value)),
            Parameter::Float(value) => ScalarValue::Float64(Some(*value)),
            Parameter::Text(value) => ScalarValue::Utf8(Some(value.clone())),
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Parameter::Int(value) => Some(*value as f64),
            Parameter::Float(value) => Some(*value),
            Parameter::Bool(_) | Parameter::Text(_) => None,
        }
    }

    /// The value to use for a parameter whose default is `self`: of the same type, a whole number serving
    /// for a fraction.
    fn overridden_by(&self, value: &Parameter) -> Option<Parameter> {
        match (self, value) {
            (Parameter::Float(_), Parameter::Int(value)) => Some(Parameter::Float(*value as f64)),
            (Parameter::Bool(_), Parameter::Bool(_))
            | (Parameter::Int(_), Parameter::Int(_))
            | (Parameter::Float(_), Parameter::Float(_))
            | (Parameter::Text(_), Parameter::Text(_)) => Some(value.clone()),
            _ => None,
        }
    }
}

/// Why a detector was refused, and where.
#[derive(Debug, thiserror::Error)]
#[error("{path}:{line}: {message}")]
pub struct DetectorError {
    pub path: String,
    pub line: u64,
    pub message: String,
}

impl DetectorFile {
    /// Reads the header of a file. `name` is the file's name without its ending.
    pub fn parse(name: &str, path: &str, text: &str) -> Result<DetectorFile, DetectorError> {
        let error = |line: usize, message: String| DetectorError { path: path.to_owned(), line: line as u64, message };
        let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !plain {
            return Err(error(1, format!("{name:?} cannot name a detector: use a-z, 0-9 and _, a letter first")));
        }
        // The comment lines at the top, without their marks: line n of the header is line n of the file.
        let header: Vec<&str> = text
            .lines()
            .map_while(|line| line.strip_prefix("--").map(|rest| rest.strip_prefix(' ').unwrap_or(rest)))
            .collect();
        let header_text = header.join("\n");
        let header: Header = toml::from_str(&header_text).map_err(|toml| {
            let line = toml.span().map_or(1, |span| header_text[..span.start].matches('\n').count() + 1);
            error(line, format!("in the header: {}", explain(toml.message())))
        })?;
        crate::detect::window::check_lengths(header.detector.window, header.detector.every)
            .map_err(|message| error(1, message))?;
        if header.detector.ttl.is_zero() {
            return Err(error(1, "ttl must be longer than nothing".into()));
        }
        if let Some(unknown) = header.least.keys().find(|name| !header.params.contains_key(*name)) {
            return Err(error(1, format!("[least] names {unknown}, which is no parameter")));
        }
        for name in header.needs.values().flat_map(Need::parameters) {
            if header.params.get(name).and_then(Parameter::as_f64).is_none() {
                return Err(error(1, format!("[needs] names {name}, which is no parameter with a number")));
            }
        }
        if let Some(unknown) = header.thresholds.values().find(|name| !header.least.contains_key(*name)) {
            return Err(error(1, format!("[thresholds] names {unknown}, which has no value in [least]")));
        }
        Ok(DetectorFile { name: name.to_owned(), path: path.to_owned(), header, sql: text.to_owned() })
    }

    /// The line on which a text first stands, for messages.
    pub fn line_of(&self, text: &str) -> u64 {
        self.sql
            .lines()
            .position(|line| !line.starts_with("--") && line.contains(text))
            .map_or(1, |line| line as u64 + 1)
    }

    /// The line on which the statement begins.
    pub fn statement_line(&self) -> u64 {
        self.sql.lines().take_while(|line| line.starts_with("--")).count() as u64 + 1
    }

    /// The detector with the config's overrides.
    pub fn with_settings(&self, settings: &DetectorSettings) -> Result<Detector, String> {
        let about = &self.header.detector;
        let (window, every) = (settings.window.unwrap_or(about.window), settings.every.unwrap_or(about.every));
        crate::detect::window::check_lengths(window, every)?;
        let mut detector = Detector {
            name: self.name.clone(),
            path: self.path.clone(),
            sql: self.sql.clone(),
            family: about.family.clone(),
            strength: about.strength,
            strength_override: settings.strength,
            window,
            every,
            ttl: settings.ttl.unwrap_or(about.ttl),
            scope: about.scope,
            mode: settings.mode.or(about.mode).unwrap_or(Mode::Enforce),
            params: self.header.params.clone(),
            needs: self.header.needs.clone(),
            least: self.header.least.clone(),
            thresholds: self.header.thresholds.clone(),
            tables: BTreeSet::new(),
            scores_only: false,
            others_are_learned: false,
            planned: Planned::default(),
        };
        for (name, value) in &settings.params {
            detector.set(name, value)?;
        }
        Ok(detector)
    }
}

/// A detector as it runs: its file and the config's overrides.
#[derive(Clone, Debug)]
pub struct Detector {
    pub name: String,
    pub path: String,
    pub sql: String,
    pub family: String,
    pub strength: Strength,
    /// The config's word, which beats the column and the header.
    pub strength_override: Option<Strength>,
    pub window: Span,
    pub every: Span,
    pub ttl: Span,
    pub scope: Scope,
    pub mode: Mode,
    pub params: BTreeMap<String, Parameter>,
    pub needs: BTreeMap<Variety, Need>,
    pub least: BTreeMap<String, i64>,
    pub thresholds: BTreeMap<String, String>,
    /// The tables that it reads; known once it is compiled.
    pub tables: BTreeSet<String>,
    /// Its findings need not say who used the session.
    pub scores_only: bool,
    /// It is shown the sessions that are looked at, and others only through the tables that are made of everybody: right for
    /// what reads these for them.
    pub others_are_learned: bool,
    /// Its statement, once it was planned; what is made of it (another detector, with other parameters) looks here, too.
    pub planned: Planned,
}

impl Detector {
    pub fn reads(&self, table: &str) -> bool {
        self.tables.contains(table)
    }

    /// What a session must have in the window, by the parameters as they are.
    pub fn needed(&self) -> Needs {
        let number = |amount: &Amount| match amount {
            Amount::Number(number) => *number,
            Amount::Parameter(name) => {
                let number = self.params.get(name).and_then(Parameter::as_f64).unwrap_or_default();
                // A number below zero becomes zero.
                number.ceil() as u32
            }
        };
        let mut needed = Needs::default();
        for (variety, need) in &self.needs {
            needed[*variety as usize] = match need {
                Need::InWindow(values) => Needed { values: number(values), minutes: 0 },
                Need::InMinutes { several, in_minutes } => {
                    match (number(several), in_minutes.iter().map(number).min()) {
                        // It finds those, too, who never have several in a minute.
                        (0 | 1, _) | (_, None | Some(0)) => Needed::default(),
                        (values, Some(minutes)) => Needed { values, minutes },
                    }
                }
            };
        }
        needed
    }

    /// Sets a parameter, which must be one of the header's, of its type, and not less than it may be.
    pub fn set(&mut self, name: &str, value: &Parameter) -> Result<(), String> {
        let Some(default) = self.params.get_mut(name) else {
            let known: Vec<&str> =
                self.params.keys().map(String::as_str).chain(["window", "every", "ttl", "strength", "mode"]).collect();
            let message = format!("unknown parameter `{name}`; {} has {}", self.name, known.join(", "));
            return Err(did_you_mean(message, name, known));
        };
        let value = default
            .overridden_by(value)
            .ok_or_else(|| format!("{name} = {value} is of another type than its default, {default}"))?;
        if let (Some(least), Some(number)) = (self.least.get(name), value.as_f64())
            && number < *least as f64
        {
            return Err(format!("{name} must be at least {least}"));
        }
        *default = value;
        Ok(())
    }

    /// The same with its thresholds at a share of what they are, but not below their least values: it finds what comes near,
    /// too.
    pub fn relaxed(&self, share: f64) -> Detector {
        let mut relaxed = Detector { scores_only: true, ..self.clone() };
        for name in self.thresholds.values() {
            if let (Some(value), Some(least)) = (relaxed.params.get_mut(name), self.least.get(name)) {
                *value = match &*value {
                    Parameter::Float(value) => Parameter::Float((*value * share).max(*least as f64)),
                    Parameter::Int(value) => Parameter::Int(((*value as f64 * share) as i64).max(*least)),
                    other => other.clone(),
                };
            }
        }
        relaxed
    }

    /// The values that are bound to `$name`.
    pub fn parameters(&self) -> Vec<(&str, ScalarValue)> {
        self.params.iter().map(|(name, value)| (name.as_str(), value.scalar())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "-- [detector]\n-- description = \"d\"\n-- family = \"f\"\n-- strength = \"medium\"\n-- window = \"30m\"\n-- every = \"5m\"\n-- ttl = \"1h\"\n-- scope = \"session\"\n-- false_positives = \"none\"\n-- [params]\n-- most = 3\n-- share = 0.5\n-- [least]\n-- most = 1\nSELECT session_id, 1.0 AS score FROM activity WHERE requests > $most\n";

    fn settings(toml: &str) -> DetectorSettings {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn header_and_overrides() {
        let file = DetectorFile::parse("d", "d.sql", GOOD).unwrap();
        let plain = file.with_settings(&DetectorSettings::default()).unwrap();
        assert_eq!((plain.window, plain.mode, plain.strength_override), (Span::minutes(30), Mode::Enforce, None));
        let changed = file
            .with_settings(&settings("most = 5\nshare = 1\nwindow = \"1h\"\nstrength = \"strong\"\nmode = \"observe\""))
            .unwrap();
        assert_eq!(changed.params["most"], Parameter::Int(5));
        assert_eq!(changed.params["share"], Parameter::Float(1.0));
        assert_eq!((changed.window, changed.mode), (Span::hours(1), Mode::Observe));
        assert_eq!(changed.strength_override, Some(Strength::Strong));
    }

    #[test]
    fn what_is_needed_follows_the_parameters() {
        let needed = |needs: &str, toml: &str| {
            let text = GOOD.replace("-- [least]\n", &format!("-- [needs]\n-- networks = {needs}\n-- [least]\n"));
            let detector = DetectorFile::parse("d", "d.sql", &text).map_err(|error| error.message)?;
            Ok::<_, String>(detector.with_settings(&settings(toml))?.needed()[Variety::Networks as usize])
        };
        let of = |values, minutes| Ok(Needed { values, minutes });
        assert_eq!(needed("2", ""), of(2, 0));
        assert_eq!(needed("\"most\"", "most = 7"), of(7, 0));
        assert_eq!(needed("{ several = 2, in_minutes = [\"most\"] }", ""), of(2, 3));
        // The least of them; a share of a minute is a minute.
        assert_eq!(needed("{ several = \"most\", in_minutes = [9, \"share\", 4] }", ""), of(3, 1));
        // Whoever has one in each minute may be found.
        assert_eq!(needed("{ several = \"most\", in_minutes = [5] }", "most = 1"), of(0, 0));
        assert_eq!(needed("{ several = 2, in_minutes = [] }", ""), of(0, 0));
        for wrong in ["\"moss\"", "{ several = 2, in_minutes = [\"moss\"] }"] {
            assert!(needed(wrong, "").unwrap_err().contains("[needs] names moss"), "{wrong}");
        }
        assert!(needed("{ several = 2 }", "").unwrap_err().contains("in_minutes"));
    }

    #[test]
    fn wrong_overrides_are_refused() {
        let file = DetectorFile::parse("d", "d.sql", GOOD).unwrap();
        for (toml, part) in [
            ("moss = 5", "most"),
            ("most = 0.5", "type"),
            ("most = \"5\"", "type"),
            ("most = 0", "at least 1"),
            ("window = \"1m\"", "longer"),
        ] {
            let error = file.with_settings(&settings(toml)).unwrap_err();
            assert!(error.contains(part), "{toml}: {error}");
        }
    }

    #[test]
    fn a_wrong_header_is_refused_with_its_line() {
        for (from, to, line) in [
            ("-- family = \"f\"\n", "", 1),
            ("medium", "middling", 4),
            ("\"5m\"", "\"5 minutes\"", 6),
            ("-- scope", "-- skope", 8),
            ("-- ttl = \"1h\"", "-- ttl = ", 7),
        ] {
            let error = DetectorFile::parse("d", "d.sql", &GOOD.replace(from, to)).unwrap_err();
            assert_eq!(error.line, line, "{from}: {error}");
        }
        assert!(DetectorFile::parse("Bad-Name", "x", GOOD).is_err());
        assert!(DetectorFile::parse("d", "d.sql", "SELECT 1").is_err());
    }
}
