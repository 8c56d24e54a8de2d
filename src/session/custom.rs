//! Any other token: a regular expression over one field of the log, with the named groups `session` and, if WAF is to
//! match another piece, `credential`.

use std::borrow::Cow;

use regex::Regex;

use super::component::{Component, Credential};
use super::request::Request;
use super::{Found, Grammar, Session};
use crate::logs::fields::{self, Field};

pub const NAME: &str = "custom";

/// The fields that a pattern can be applied to, and what WAF has in their place.
const FIELDS: &str = "cs-uri-stem, cs-uri-query, cs(Cookie), cs(User-Agent), cs(Referer), x-host-header";

#[derive(Clone, Debug)]
pub struct Custom {
    grammar: Grammar,
    field: Field,
    pattern: Regex,
    bound: bool,
    component: Component,
}

impl Custom {
    /// # Errors
    ///
    /// What is wrong with the field or the pattern.
    pub fn new(grammar: Grammar, field: &str, pattern: &str, bound: bool) -> Result<Self, String> {
        let header = |name: &str| Component::Header(name.to_owned());
        let (field, component) = match fields::field(field) {
            Some(Field::UriStem) => (Field::UriStem, Component::Path),
            Some(Field::Query) => (Field::Query, Component::QueryString),
            Some(Field::Cookie) => (Field::Cookie, header("cookie")),
            Some(Field::UserAgent) => (Field::UserAgent, header("user-agent")),
            Some(Field::Referer) => (Field::Referer, header("referer")),
            Some(Field::XHostHeader | Field::CsHost) => (Field::XHostHeader, header("host")),
            _ => return Err(format!("field {field:?}: a pattern can be applied to {FIELDS}")),
        };
        let regex = Regex::new(pattern).map_err(|error| format!("pattern: {error}"))?;
        if !regex.capture_names().flatten().any(|name| name == "session") {
            return Err("pattern: a group (?<session>…) is needed".to_owned());
        }
        if let Some(other) = regex.capture_names().flatten().find(|name| !matches!(*name, "session" | "credential")) {
            return Err(format!("pattern: the group {other:?} means nothing; session and credential do"));
        }
        let component = Component::Word(grammar.class(), Box::new(component));
        Ok(Custom { grammar, field, pattern: regex, bound, component })
    }

    /// The field that has to be read.
    pub fn field(&self) -> Field {
        self.field
    }

    pub fn identify<'a>(&self, request: &Request<'a>) -> Option<Found<'a>> {
        let text = match self.field {
            Field::UriStem => request.path,
            Field::Query => request.query.as_deref()?,
            Field::Cookie => request.cookie.as_deref()?,
            Field::UserAgent => request.user_agent.as_deref()?,
            Field::Referer => request.referer.as_deref()?,
            _ => request.host.as_deref()?,
        };
        let groups = self.pattern.captures(text)?;
        let session = groups.name("session")?;
        let credential = groups.name("credential").unwrap_or(session);
        if !self.grammar.accepts(session.as_str()) || !self.grammar.accepts(credential.as_str()) {
            return None;
        }
        let path = match self.field {
            Field::UriStem => without_segments(request.path, [session.range(), credential.range()]),
            _ => Cow::Borrowed(request.path),
        };
        let session = Session {
            id: session.as_str().to_owned(),
            bound: self.bound,
            derived: false,
            credential: Some(Credential { component: self.component.clone(), text: credential.as_str().to_owned() }),
            token_expires: None,
        };
        Some(Found { session, path })
    }
}

/// A path without the segments in which these ranges are, so that the asset is the same for every session. The last
/// one stays: it is the file.
fn without_segments<'a>(path: &'a str, ranges: [std::ops::Range<usize>; 2]) -> Cow<'a, str> {
    let file = path.rfind('/').unwrap_or(0);
    let mut kept = String::with_capacity(path.len());
    let mut start = 0;
    for segment in path.split_inclusive('/') {
        let end = start + segment.len();
        let is_token = ranges.iter().any(|range| range.start < end && range.end > start);
        if !is_token || start > file {
            kept.push_str(segment);
        }
        start = end;
    }
    if kept.len() == path.len() { Cow::Borrowed(path) } else { Cow::Owned(kept) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scheme(field: &str, pattern: &str) -> Result<Custom, String> {
        Custom::new(Grammar::new(6, 200, "A-Za-z0-9_-").unwrap(), field, pattern, false)
    }

    #[test]
    fn groups_name_the_session_and_the_credential() {
        let path = Request { path: "/s/Ab3dEf6hIj9k/live/a/1.ts", ..Request::default() };
        let found = scheme("cs-uri-stem", "^/s/(?<session>[^/]+)/").unwrap().identify(&path).unwrap();
        assert_eq!((found.session.id.as_str(), found.session.bound), ("Ab3dEf6hIj9k", false));
        assert_eq!(found.path, "/s/live/a/1.ts");
        let credential = found.session.credential.unwrap();
        assert_eq!(credential.component.to_string(), "[0-9A-Z_a-z-] in path");
        assert_eq!(credential.text, "Ab3dEf6hIj9k");

        let query = Request { query: Some("u=viewer-one&k=secret-key-1".into()), ..Request::default() };
        let found =
            scheme("cs_uri_query", "u=(?<session>[^&]+)&k=(?<credential>[^&]+)").unwrap().identify(&query).unwrap();
        assert_eq!(found.session.credential.unwrap().text, "secret-key-1");
        let short = Request { query: Some("u=viewer-one&k=x".into()), ..Request::default() };
        assert_eq!(
            scheme("cs-uri-query", "u=(?<session>[^&]+)&k=(?<credential>[^&]+)").unwrap().identify(&short),
            None
        );
    }

    #[test]
    fn wrong_patterns_and_fields_are_refused() {
        for (field, pattern, part) in [
            ("cs-uri-stem", "(", "pattern"),
            ("cs-uri-stem", "^/s/([^/]+)/", "(?<session>"),
            ("cs-uri-stem", "(?<session>a)(?<token>b)", "token"),
            ("sc-status", "(?<session>.*)", "cs-uri-query"),
            ("nonsense", "(?<session>.*)", "cs-uri-query"),
        ] {
            let error = scheme(field, pattern).unwrap_err();
            assert!(error.contains(part), "{field} {pattern}: {error}");
        }
    }

    proptest! {
        #[test]
        fn takes_any_path(path in "/?\\PC{0,40}") {
            let scheme = scheme("cs-uri-stem", "(?<session>[a-z]{6,})").unwrap();
            if let Some(found) = scheme.identify(&Request { path: &path, ..Request::default() }) {
                prop_assert!(path.contains(&found.session.id));
            }
        }
    }
}
