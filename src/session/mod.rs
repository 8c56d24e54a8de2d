//! Session schemes: how the identity of a playback session is found in a request.
//!
//! A file per scheme; the first scheme of the config that fits a request wins. Schemes read, they verify
//! nothing: the edge did that, which is why only accepted requests count against a session.

mod grammar;
mod jwt;
mod secure_media_delivery;

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::Deserialize;

pub use grammar::{Grammar, GrammarError};
use secure_media_delivery::SecureMediaDelivery;

/// An entry `[[session]]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemeConfig {
    scheme: SchemeName,
    #[serde(default = "default_min_length")]
    min_length: usize,
    #[serde(default = "default_max_length")]
    max_length: usize,
    #[serde(default = "default_alphabet")]
    alphabet: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SchemeName {
    SecureMediaDelivery,
}

fn default_min_length() -> usize {
    6
}

fn default_max_length() -> usize {
    200
}

fn default_alphabet() -> String {
    "A-Za-z0-9_-".to_owned()
}

/// A checked scheme.
#[derive(Clone, Debug)]
pub enum Scheme {
    SecureMediaDelivery(SecureMediaDelivery),
}

/// Why an entry `[[session]]` was refused.
#[derive(Debug, thiserror::Error)]
pub enum SchemeError {
    #[error(transparent)]
    Grammar(#[from] GrammarError),
}

impl TryFrom<SchemeConfig> for Scheme {
    type Error = SchemeError;

    fn try_from(config: SchemeConfig) -> Result<Scheme, SchemeError> {
        let grammar = Grammar::new(config.min_length, config.max_length, &config.alphabet)?;
        Ok(match config.scheme {
            SchemeName::SecureMediaDelivery => Scheme::SecureMediaDelivery(SecureMediaDelivery::new(grammar)),
        })
    }
}

impl Scheme {
    /// Its name in the config and in the column `scheme`.
    pub fn name(&self) -> &'static str {
        match self {
            Scheme::SecureMediaDelivery(_) => secure_media_delivery::NAME,
        }
    }
}

/// A playback session as one request shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: String,
    /// The token's signature covers the id.
    pub bound: bool,
    /// There is no id; the signature stands in for one.
    pub derived: bool,
    /// What WAF matches.
    pub credential: Option<String>,
    pub token_expires: Option<DateTime<Utc>>,
}

/// The session of a request, and the path without its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Playback<'a> {
    pub scheme: &'static str,
    pub session: Session,
    pub path: Cow<'a, str>,
}

/// Finds the session of a request with this path (decoded once): by the first scheme that fits.
pub fn identify<'a>(schemes: &[Scheme], path: &'a str) -> Option<Playback<'a>> {
    schemes.iter().find_map(|scheme| {
        let (session, path) = match scheme {
            Scheme::SecureMediaDelivery(scheme) => scheme.identify(path)?,
        };
        Some(Playback { scheme: scheme.name(), session, path })
    })
}
