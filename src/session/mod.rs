//! Session schemes: how the identity of a playback session is found in a request.
//!
//! A file per scheme; the first scheme of the config that fits a request wins. Schemes read, they verify
//! nothing: the edge did that, which is why only accepted requests count against a session.

mod cmcd;
pub mod component;
mod custom;
mod grammar;
mod jwt;
pub mod request;
pub mod secure_media_delivery;
mod signed;
mod stream_key;
pub mod token;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::logs::fields::{Field, FieldSet};
use cmcd::Cmcd;
use component::{Credential, is_name};
use custom::Custom;
pub use grammar::{Grammar, GrammarError};
use jwt::Jwt;
use request::Request;
use secure_media_delivery::SecureMediaDelivery;
use signed::Signed;
use stream_key::StreamKey;

/// Tokens that are remembered by each scheme, of so many bytes at most.
const REMEMBERED_TOKENS: usize = 8_192;
const REMEMBERED_BYTES: usize = 1_024;

/// An entry `[[session]]` as it is written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SchemeConfig {
    scheme: SchemeName,
    #[serde(default = "default_min_length")]
    min_length: usize,
    #[serde(default = "default_max_length")]
    max_length: usize,
    #[serde(default = "default_alphabet")]
    alphabet: String,
    query: Option<String>,
    cookie: Option<String>,
    header: Option<String>,
    path_segment: Option<usize>,
    claim: Option<String>,
    field: Option<String>,
    pattern: Option<String>,
    bound: Option<bool>,
    #[serde(default)]
    paths: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum SchemeName {
    SecureMediaDelivery,
    Jwt,
    SignedCookie,
    SignedUrl,
    StreamKey,
    Cmcd,
    Custom,
}

impl SchemeName {
    fn name(self) -> &'static str {
        match self {
            SchemeName::SecureMediaDelivery => secure_media_delivery::NAME,
            SchemeName::Jwt => jwt::NAME,
            SchemeName::SignedCookie => signed::COOKIE_NAME,
            SchemeName::SignedUrl => signed::URL_NAME,
            SchemeName::StreamKey => stream_key::NAME,
            SchemeName::Cmcd => cmcd::NAME,
            SchemeName::Custom => custom::NAME,
        }
    }

    /// The keys that mean something to it, beside those of the grammar.
    fn keys(self) -> &'static [&'static str] {
        match self {
            SchemeName::Jwt => &["query", "cookie", "header", "path_segment", "claim"],
            SchemeName::SignedCookie => &["cookie"],
            SchemeName::SignedUrl => &["query"],
            SchemeName::Custom => &["field", "pattern", "bound"],
            SchemeName::SecureMediaDelivery | SchemeName::StreamKey | SchemeName::Cmcd => &[],
        }
    }
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

/// A checked entry `[[session]]`.
#[derive(Clone, Debug)]
pub struct Scheme {
    kind: Kind,
    /// Beginnings of the paths (without the token) below which the edge looks at tokens; none: everywhere.
    paths: Vec<String>,
}

#[derive(Clone, Debug)]
enum Kind {
    SecureMediaDelivery(SecureMediaDelivery),
    Jwt(Jwt),
    Signed(Signed),
    StreamKey(StreamKey),
    Cmcd(Cmcd),
    Custom(Custom),
}

/// Why an entry `[[session]]` was refused.
#[derive(Debug, thiserror::Error)]
pub enum SchemeError {
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    #[error("{key} means nothing to the scheme {scheme}")]
    Meaningless { scheme: &'static str, key: &'static str },
    #[error("{key}: {name:?} is no name (1 to 64 of A-Z a-z 0-9 - _ .)")]
    Name { key: &'static str, name: String },
    #[error("{0}")]
    Wrong(String),
}

impl TryFrom<SchemeConfig> for Scheme {
    type Error = SchemeError;

    fn try_from(config: SchemeConfig) -> Result<Scheme, SchemeError> {
        let grammar = Grammar::new(config.min_length, config.max_length, &config.alphabet)?;
        let scheme = config.scheme;
        let given = [
            ("query", config.query.is_some()),
            ("cookie", config.cookie.is_some()),
            ("header", config.header.is_some()),
            ("path_segment", config.path_segment.is_some()),
            ("claim", config.claim.is_some()),
            ("field", config.field.is_some()),
            ("pattern", config.pattern.is_some()),
            ("bound", config.bound.is_some()),
        ];
        if let Some((key, _)) = given.into_iter().find(|(key, given)| *given && !scheme.keys().contains(key)) {
            return Err(SchemeError::Meaningless { scheme: scheme.name(), key });
        }
        for (key, name) in [("query", &config.query), ("cookie", &config.cookie), ("header", &config.header)] {
            if let Some(name) = name.as_ref().filter(|name| !is_name(name)) {
                return Err(SchemeError::Name { key, name: name.clone() });
            }
        }
        let wrong = |reason: &str| SchemeError::Wrong(reason.to_owned());
        let kind = match scheme {
            SchemeName::SecureMediaDelivery => Kind::SecureMediaDelivery(SecureMediaDelivery::new(grammar)),
            SchemeName::Jwt => {
                let place = match (config.query, config.cookie, config.header, config.path_segment) {
                    (Some(name), None, None, None) => jwt::Place::Query(name),
                    (None, Some(name), None, None) => jwt::Place::Cookie(name),
                    (None, None, Some(name), None) => jwt::Place::Header(name),
                    (None, None, None, Some(number @ 1..)) => jwt::Place::PathSegment(number),
                    (None, None, None, Some(0)) => return Err(wrong("path_segment: segments are counted from 1")),
                    _ => {
                        return Err(wrong(
                            "one of query, cookie, header and path_segment is needed: where the token stands",
                        ));
                    }
                };
                let claim =
                    config.claim.ok_or_else(|| wrong("claim is needed: which claim is the session, such as sid"))?;
                Kind::Jwt(Jwt::new(grammar, claim, place))
            }
            SchemeName::SignedCookie => Kind::Signed(Signed::new(grammar, signed::Place::Cookie, config.cookie)),
            SchemeName::SignedUrl => Kind::Signed(Signed::new(grammar, signed::Place::Url, config.query)),
            SchemeName::StreamKey => Kind::StreamKey(StreamKey),
            SchemeName::Cmcd => Kind::Cmcd(Cmcd::new(grammar)),
            SchemeName::Custom => {
                let field = config.field.ok_or_else(|| wrong("field is needed: which field of the log to look at"))?;
                let pattern = config.pattern.ok_or_else(|| wrong("pattern is needed"))?;
                let bound = config.bound.unwrap_or(false);
                Kind::Custom(Custom::new(grammar, &field, &pattern, bound).map_err(SchemeError::Wrong)?)
            }
        };
        if let Some(wrong) = config.paths.iter().find(|path| !path.starts_with('/')) {
            return Err(SchemeError::Wrong(format!("paths: {wrong:?} does not begin with /")));
        }
        Ok(Scheme { kind, paths: config.paths })
    }
}

impl Scheme {
    /// Its name in the config and in the column `scheme`.
    pub fn name(&self) -> &'static str {
        match &self.kind {
            Kind::SecureMediaDelivery(_) => secure_media_delivery::NAME,
            Kind::Jwt(_) => jwt::NAME,
            Kind::Signed(scheme) => scheme.name(),
            Kind::StreamKey(_) => stream_key::NAME,
            Kind::Cmcd(_) => cmcd::NAME,
            Kind::Custom(_) => custom::NAME,
        }
    }

    /// The schemes that need no key to be told where the token stands, with the default grammar.
    pub fn without_keys() -> Vec<Scheme> {
        let grammar = Grammar::new(default_min_length(), default_max_length(), &default_alphabet());
        let grammar = grammar.expect("the default is a grammar");
        let kinds = [
            Kind::SecureMediaDelivery(SecureMediaDelivery::new(grammar.clone())),
            Kind::Signed(Signed::new(grammar.clone(), signed::Place::Cookie, None)),
            Kind::Signed(Signed::new(grammar.clone(), signed::Place::Url, None)),
            Kind::StreamKey(StreamKey),
            Kind::Cmcd(Cmcd::new(grammar)),
        ];
        kinds.into_iter().map(|kind| Scheme { kind, paths: vec![] }).collect()
    }

    /// The cookie or argument in which it looks for an id, where a signature stands in for a missing one.
    pub fn id_place(&self) -> Option<String> {
        match &self.kind {
            Kind::Signed(scheme) => scheme.id_place(),
            _ => None,
        }
    }

    /// The fields that it looks at, beside the path.
    pub fn fields(&self) -> FieldSet {
        match &self.kind {
            Kind::SecureMediaDelivery(_) => FieldSet::default(),
            Kind::Jwt(scheme) => FieldSet::of(scheme.field()),
            Kind::Signed(scheme) => FieldSet::of([scheme.field()]),
            Kind::StreamKey(_) => FieldSet::of([Field::Headers]),
            Kind::Cmcd(_) => FieldSet::of([Field::Query, Field::CmcdSession]),
            Kind::Custom(scheme) => FieldSet::of([scheme.field()]),
        }
    }

    /// The session of a request, and the path without its token. `known` is what this scheme has read so far.
    fn identify<'a>(&self, request: &Request<'a>, known: &mut Known) -> Option<(Arc<Session>, Cow<'a, str>)> {
        let of = |found: Found<'a>| (Arc::new(found.session), found.path);
        let (session, path) = match &self.kind {
            Kind::SecureMediaDelivery(scheme) => {
                let (token, path) = scheme.token(request.path)?;
                (known.read(token, |token| scheme.read(token))?, Cow::Borrowed(path))
            }
            Kind::Jwt(scheme) => {
                let (sent, path) = scheme.sent(request)?;
                (known.read(&sent, |sent| scheme.read(sent))?, path)
            }
            Kind::Signed(scheme) => of(scheme.identify(request)?),
            Kind::StreamKey(scheme) => of(scheme.identify(request)?),
            Kind::Cmcd(scheme) => of(scheme.identify(request)?),
            Kind::Custom(scheme) => of(scheme.identify(request)?),
        };
        let is_checked = self.paths.is_empty() || self.paths.iter().any(|beginning| path.starts_with(beginning));
        is_checked.then_some((session, path))
    }

    /// What WAF matches for a session that nobody has seen; none where its id is not enough to tell.
    pub fn credential_of_id(&self, id: &str) -> Option<Credential> {
        match &self.kind {
            Kind::SecureMediaDelivery(scheme) => scheme.credential(id),
            Kind::Cmcd(scheme) => scheme.credential(id),
            Kind::Jwt(_) | Kind::Signed(_) | Kind::StreamKey(_) | Kind::Custom(_) => None,
        }
    }

    /// What WAF matches of a token, a signature or a key that a person has at hand; none where it is nothing of the kind.
    pub fn credential_of_text(&self, text: &str) -> Option<Credential> {
        match &self.kind {
            Kind::Jwt(scheme) => scheme.credential(text),
            // A token is no signature.
            Kind::Signed(_) | Kind::StreamKey(_) if text.contains('.') => None,
            Kind::Signed(scheme) => scheme.credential(text),
            Kind::StreamKey(scheme) => scheme.credential(text),
            // The id is what WAF matches: another text would block somebody else.
            Kind::SecureMediaDelivery(_) | Kind::Cmcd(_) => None,
            // Where it stands is known from requests only.
            Kind::Custom(_) => None,
        }
    }

    /// The session that a token says it is of; none where it says nothing.
    pub fn session_of_text(&self, text: &str) -> Option<String> {
        match &self.kind {
            Kind::Jwt(scheme) => scheme.read(text).map(|session| session.id),
            _ => None,
        }
    }

    /// A status with which the edge refuses tokens of this scheme, beside `refused_status`.
    fn refused_status(&self) -> Option<u16> {
        matches!(self.kind, Kind::StreamKey(_)).then_some(stream_key::REFUSED_STATUS)
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
    pub credential: Option<Credential>,
    pub token_expires: Option<DateTime<Utc>>,
}

/// What a scheme finds: the session, and the path without its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    pub session: Session,
    pub path: Cow<'a, str>,
}

/// The session of a request, and the path without its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Playback<'a> {
    pub scheme: &'static str,
    /// The same one for requests with the same token, as a rule.
    pub session: Arc<Session>,
    pub path: Cow<'a, str>,
    /// A status with which the edge refuses such tokens, beside `refused_status`.
    pub refused_status: Option<u16>,
}

/// What a scheme has read from tokens: a player sends the same one with thousands of requests.
#[derive(Default)]
struct Known(HashMap<Box<str>, Option<Arc<Session>>, RandomState>);

impl Known {
    /// The session of a token, read if it is a new one.
    fn read(&mut self, token: &str, read: impl FnOnce(&str) -> Option<Session>) -> Option<Arc<Session>> {
        if let Some(session) = self.0.get(token) {
            return session.clone();
        }
        let session = read(token).map(Arc::new);
        if token.len() <= REMEMBERED_BYTES {
            if self.0.len() >= REMEMBERED_TOKENS {
                self.0.clear();
            }
            self.0.insert(token.into(), session.clone());
        }
        session
    }
}

/// Finds the sessions of requests.
pub struct Identifier {
    schemes: Arc<[Scheme]>,
    /// Of each scheme.
    known: Vec<Known>,
}

impl Identifier {
    pub fn new(schemes: Arc<[Scheme]>) -> Self {
        Identifier { known: schemes.iter().map(|_| Known::default()).collect(), schemes }
    }

    /// The session of a request: by the first scheme that fits.
    pub fn identify<'a>(&mut self, request: &Request<'a>) -> Option<Playback<'a>> {
        self.schemes.iter().zip(&mut self.known).find_map(|(scheme, known)| {
            let (session, path) = scheme.identify(request, known)?;
            Some(Playback { scheme: scheme.name(), session, path, refused_status: scheme.refused_status() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(text: &str) -> Result<Scheme, String> {
        let config: SchemeConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        Scheme::try_from(config).map_err(|error| error.to_string())
    }

    #[test]
    fn every_scheme_of_the_design_is_taken() {
        for (text, name) in [
            ("scheme = 'secure-media-delivery'", "secure-media-delivery"),
            ("scheme = 'jwt'\nquery = 'token'\nclaim = 'sid'", "jwt"),
            ("scheme = 'jwt'\npath_segment = 2\nclaim = 'sid'", "jwt"),
            ("scheme = 'signed-cookie'", "signed-cookie"),
            ("scheme = 'signed-cookie'\ncookie = 'session'", "signed-cookie"),
            ("scheme = 'signed-url'\nquery = 'sid'", "signed-url"),
            ("scheme = 'stream-key'", "stream-key"),
            ("scheme = 'cmcd'\nmin_length = 8", "cmcd"),
            ("scheme = 'custom'\nfield = 'cs-uri-query'\npattern = 'u=(?<session>[^&]+)'\nbound = true", "custom"),
        ] {
            assert_eq!(scheme(text).unwrap().name(), name, "{text}");
        }
    }

    #[test]
    fn wrong_entries_say_what_to_do() {
        for (text, part) in [
            ("scheme = 'jwt'\nclaim = 'sid'", "one of query, cookie, header and path_segment"),
            ("scheme = 'jwt'\nclaim = 'sid'\nquery = 'a'\ncookie = 'b'", "one of query"),
            ("scheme = 'jwt'\nquery = 'token'", "claim is needed"),
            ("scheme = 'jwt'\npath_segment = 0\nclaim = 'sid'", "from 1"),
            ("scheme = 'cmcd'\ncookie = 'a'", "cookie means nothing to the scheme cmcd"),
            ("scheme = 'secure-media-delivery'\nclaim = 'a'", "claim means nothing"),
            ("scheme = 'signed-url'\nquery = 'a b'", "no name"),
            ("scheme = 'custom'\nfield = 'cs-uri-stem'", "pattern is needed"),
            ("scheme = 'custom'\npattern = 'x'", "field is needed"),
            ("scheme = 'smd'", "unknown variant"),
            ("scheme = 'cmcd'\npaths = ['live/']", "does not begin with /"),
        ] {
            let error = scheme(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_first_scheme_that_fits_wins() {
        let schemes: Arc<[Scheme]> = Arc::new([
            scheme("scheme = 'jwt'\nquery = 'token'\nclaim = 'sid'").unwrap(),
            scheme("scheme = 'custom'\nfield = 'cs-uri-query'\npattern = 'u=(?<session>[^&]+)'").unwrap(),
        ]);
        // {"sid":"from-the-jwt"}
        let both = "u=from-the-query&token=e30.eyJzaWQiOiJmcm9tLXRoZS1qd3QifQ.c2lnbmF0dXJl";
        let of = |query: &str| {
            let request = Request { query: Some(query.to_owned().into()), ..Request::default() };
            let playback = Identifier::new(schemes.clone()).identify(&request);
            playback.map(|playback| (playback.scheme, playback.session.id.clone()))
        };
        assert_eq!(of(both), Some(("jwt", "from-the-jwt".to_owned())));
        assert_eq!(of("u=from-the-query"), Some(("custom", "from-the-query".to_owned())));
        assert_eq!(of("x=1"), None);
    }

    #[test]
    fn a_scheme_can_be_kept_to_the_paths_where_the_edge_checks_tokens() {
        let schemes: Arc<[Scheme]> =
            Arc::new([scheme("scheme = 'jwt'\npath_segment = 1\nclaim = 'sid'\npaths = ['/live/', '/vod/']").unwrap()]);
        let of = |path: &str| {
            let path = format!("/e30.eyJzaWQiOiJmcm9tLXRoZS1qd3QifQ.c2lnbmF0dXJl{path}");
            Identifier::new(schemes.clone()).identify(&Request { path: &path, ..Request::default() }).is_some()
        };
        assert!(of("/live/a.ts") && of("/vod/a.ts"));
        assert!(!of("/trailers/a.ts") && !of("/liveness/a.ts"));
    }
}
