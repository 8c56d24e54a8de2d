//! Any other token: a regular expression over one field of the log, with the named groups `session` and, if WAF is to
//! match another piece, `credential`.

use std::borrow::Cow;

use regex::{Captures, Match, Regex};

use super::component::{Component, Credential, is_name};
use super::request::Request;
use super::{Found, Grammar, Session};
use crate::logs::fields::{self, Field};

pub const NAME: &str = "custom";

/// From how many characters on a credential is taken to be found nowhere else, so that it may be a piece of something longer.
const UNIQUE_CHARACTERS: usize = 22;

/// The fields that a pattern can be applied to: what WAF has, too.
const FIELDS: &str = "cs-uri-stem, cs-uri-query, cs(Cookie), cs(User-Agent), cs(Referer), x-host-header";

#[derive(Clone, Debug)]
pub struct Custom {
    grammar: Grammar,
    field: Field,
    pattern: Regex,
    bound: bool,
}

impl Custom {
    /// # Errors
    ///
    /// What is wrong with the field or the pattern.
    pub fn new(grammar: Grammar, field: &str, pattern: &str, bound: bool) -> Result<Self, String> {
        let field = match fields::field(field) {
            Some(
                found @ (Field::UriStem
                | Field::Query
                | Field::Cookie
                | Field::UserAgent
                | Field::Referer
                | Field::XHostHeader),
            ) => found,
            _ => return Err(format!("field {field:?}: a pattern can be applied to {FIELDS}")),
        };
        let regex = Regex::new(pattern).map_err(|error| {
            let text = error.to_string();
            format!("pattern {pattern:?}: {}", text.lines().last().unwrap_or_default().trim())
        })?;
        if !regex.capture_names().flatten().any(|name| name == "session") {
            return Err("pattern: a group (?<session>…) is needed".to_owned());
        }
        if let Some(other) = regex.capture_names().flatten().find(|name| !matches!(*name, "session" | "credential")) {
            return Err(format!("pattern: the group {other:?} means nothing; session and credential do"));
        }
        Ok(Custom { grammar, field, pattern: regex, bound })
    }

    /// The field that has to be read.
    pub fn field(&self) -> Field {
        self.field
    }

    pub fn identify<'a>(&self, request: &Request<'a>) -> Option<Found<'a>> {
        let text = match self.field {
            Field::UriStem => request.path,
            Field::Query => request.query.as_deref()?,
            Field::Cookie if request.cookie_cut => return None,
            Field::Cookie => request.cookie.as_deref()?,
            Field::UserAgent => request.user_agent.as_deref()?,
            Field::Referer => request.referer.as_deref()?,
            _ => request.host.as_deref()?,
        };
        let mut found = self.pattern.captures_iter(text);
        let groups = found.next()?;
        let session = groups.name("session")?;
        // Two sessions in one request name nobody: the edge looked at one of them, and nobody knows which.
        let same = |other: Captures<'_>| other.name("session").is_none_or(|other| other.as_str() == session.as_str());
        if !found.all(same) {
            return None;
        }
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
            credential: self
                .component(text, credential)
                .map(|component| Credential { component, text: credential.as_str().to_owned() }),
            token_expires: None,
        };
        Some(Found { session, path })
    }

    /// Where WAF finds the credential, as narrowly as it can be said: in one segment, argument or cookie, and all of it
    /// where it is. None where no rule could tell it from what others send.
    fn component(&self, text: &str, credential: Match<'_>) -> Option<Component> {
        let header = |name: &str| Component::Header(name.to_owned());
        let (component, start, end) = match self.field {
            Field::UriStem => {
                let (start, end) = piece(text, credential, "/");
                (Component::Segment(text[..start].matches('/').count()), start, end)
            }
            Field::Query => {
                let (start, end) = piece(text, credential, "&");
                let name = text[start..end].split_once('=').map(|(name, _)| name).filter(|name| is_name(name))?;
                (Component::Query(name.to_owned()), start + name.len() + 1, end)
            }
            Field::Cookie => {
                let (start, end) = piece(text, credential, ";");
                let name = text[start..end].split_once('=').map(|(name, _)| name)?;
                let value = start + name.len() + 1;
                (Component::Cookie(Some(name.trim()).filter(|name| is_name(name))?.to_owned()), value, end)
            }
            Field::UserAgent => (header("user-agent"), 0, text.len()),
            Field::Referer => (header("referer"), 0, text.len()),
            _ => (header("host"), 0, text.len()),
        };
        if credential.start() < start || credential.end() > end {
            return None;
        }
        let component = Box::new(component);
        let (before, behind) = (&text[start..credential.start()], &text[credential.end()..end]);
        let goes_on = |c: Option<char>| c.is_some_and(|c| self.grammar.has(c));
        if before.trim().is_empty() && behind.trim().is_empty() {
            Some(Component::Whole(component))
        } else if !goes_on(before.chars().next_back()) && !goes_on(behind.chars().next()) {
            let number = before.split(|c| !self.grammar.has(c)).filter(|word| !word.is_empty()).count() + 1;
            Some(Component::Word(number, self.grammar.class(), component))
        } else {
            // A piece of something longer: only if it is long enough to be found nowhere else.
            (credential.len() >= UNIQUE_CHARACTERS).then_some(*component)
        }
    }
}

/// The piece between separators in which a match begins.
fn piece(text: &str, found: Match<'_>, separator: &str) -> (usize, usize) {
    let start = text[..found.start()].rfind(separator).map_or(0, |at| at + 1);
    let end = text[start..].find(separator).map_or(text.len(), |length| start + length);
    (start, end)
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
        assert_eq!(
            (credential.component.to_string().as_str(), credential.text.as_str()),
            ("all of segment:2", "Ab3dEf6hIj9k")
        );

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
    fn a_credential_is_matched_as_narrowly_as_it_can_be_said() {
        let component = |field: &str, pattern: &str, request: &Request<'_>| {
            let found = scheme(field, pattern).unwrap().identify(request).unwrap();
            found.session.credential.map(|credential| credential.component.to_string())
        };
        let query = Request { query: Some("x=1&uid=100123&t=a.100123.b".into()), ..Request::default() };
        assert_eq!(component("cs-uri-query", "uid=(?<session>[0-9]+)", &query).as_deref(), Some("all of query:uid"));
        let word = component("cs-uri-query", "t=a.(?<session>[0-9]+)", &query);
        assert_eq!(word.as_deref(), Some("word 2 of [0-9A-Z_a-z-] in query:t"));
    }

    #[test]
    fn a_piece_of_something_longer_is_matched_only_if_it_is_long() {
        let of = |query: &str, pattern: &str| {
            let request = Request { query: Some(query.to_owned().into()), ..Request::default() };
            scheme("cs-uri-query", pattern).unwrap().identify(&request).unwrap().session.credential
        };
        let signature = "0123456789abcdefABCDEF0123456789abcdef";
        let pattern = "u=(?<session>[^&]+)&sig=(?<credential>[A-Za-z0-9]{22})";
        let found = of(&format!("u=viewer-one&sig={signature}"), pattern).unwrap();
        assert_eq!((found.component.to_string().as_str(), found.text.as_str()), ("query:sig", &signature[..22]));
        assert_eq!(
            of(&format!("u=viewer-one&sig={signature}"), "u=(?<session>[^&]+)&sig=(?<credential>[0-9]{10})"),
            None
        );
    }

    #[test]
    fn two_sessions_in_one_request_name_nobody() {
        let scheme = scheme("cs-uri-query", "sid=(?<session>[^&]+)").unwrap();
        let of = |query: &str| {
            scheme.identify(&Request { query: Some(query.to_owned().into()), ..Request::default() }).is_some()
        };
        assert!(of("sid=VictimSess1&sid=VictimSess1"));
        assert!(!of("sid=VictimSess1&sid=Mine001"));
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
