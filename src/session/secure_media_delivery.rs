//! AWS "Secure Media Delivery at the Edge": the token is the first segment of the path,
//! `/<id>.<header>.<payload>.<signature>/rest`, the last three being a JSON Web Token.
//!
//! Source: the solution's v1.2.6. Without an id the segment has three parts and there is no session. The
//! signature covers the id only where the payload says `"ssn": true`.

use serde_json::Value;

use super::component::{Component, Credential};
use super::{Grammar, Session, token};

pub const NAME: &str = "secure-media-delivery";

#[derive(Clone, Debug)]
pub struct SecureMediaDelivery {
    grammar: Grammar,
}

impl SecureMediaDelivery {
    pub fn new(grammar: Grammar) -> Self {
        SecureMediaDelivery { grammar }
    }

    pub fn credential(&self, id: &str) -> Option<Credential> {
        self.grammar.accepts(id).then(|| Credential { component: Component::PathStart, text: id.to_owned() })
    }

    /// The token of a path that begins with one, and the path without it.
    pub fn token<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let segment = path.strip_prefix('/')?;
        Some(segment.split_at(memchr::memchr(b'/', segment.as_bytes())?))
    }

    /// The session of a token. The id is the credential: WAF matches `/ID.` at the path's beginning.
    pub fn read(&self, token: &str) -> Option<Session> {
        let mut parts = token.split('.');
        let (id, header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let complete = parts.next().is_none() && !header.is_empty() && !signature.is_empty();
        if !complete || !self.grammar.accepts(id) {
            return None;
        }
        let claims = token::claims(payload)?;
        Some(Session {
            id: id.to_owned(),
            bound: claims.get("ssn").and_then(Value::as_bool) == Some(true),
            derived: false,
            credential: self.credential(id),
            token_expires: token::expires(&claims),
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    fn scheme() -> SecureMediaDelivery {
        SecureMediaDelivery::new(Grammar::new(6, 200, "A-Za-z0-9_-").unwrap())
    }

    fn identify(path: &str) -> Option<(Session, &str)> {
        let scheme = scheme();
        let (token, rest) = scheme.token(path)?;
        Some((scheme.read(token)?, rest))
    }

    fn token(payload: &str) -> String {
        format!("eyJhbGciOiJIUzI1NiJ9.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn a_bound_session() {
        let path = format!("/Ab3dEf6hIj9k.{}/live/a.m3u8", token(r#"{"ssn":true,"exp":1795200000}"#));
        let (session, rest) = identify(&path).unwrap();
        assert_eq!((session.id.as_str(), session.bound, session.derived), ("Ab3dEf6hIj9k", true, false));
        assert_eq!(session.credential.unwrap().text, "Ab3dEf6hIj9k");
        assert_eq!(session.token_expires, chrono::DateTime::from_timestamp(1_795_200_000, 0));
        assert_eq!(rest, "/live/a.m3u8");
    }

    #[test]
    fn without_ssn_the_id_is_anybodys_choice() {
        for payload in ["{}", r#"{"ssn":false}"#, r#"{"ssn":"true"}"#, r#"{"ssn":1}"#] {
            let path = format!("/Ab3dEf6hIj9k.{}/live/a.m3u8", token(payload));
            assert!(!identify(&path).unwrap().0.bound, "{payload}");
        }
    }

    #[test]
    fn what_has_no_session() {
        let jwt = token(r#"{"ssn":true}"#);
        for path in [
            format!("/{jwt}/live/a.m3u8"),
            format!("/abc.{jwt}/live/a.m3u8"),
            format!("/a%2Fb%2Fc.{jwt}/live/a.m3u8"),
            format!("/Ab3dEf6hIj9k.{jwt}"),
            format!("/Ab3dEf6hIj9k.{jwt}.more/live/a.m3u8"),
            format!("Ab3dEf6hIj9k.{jwt}/live/a.m3u8"),
            "/Ab3dEf6hIj9k.a.not-json.c/live/a.m3u8".to_owned(),
            "/Ab3dEf6hIj9k.../live/a.m3u8".to_owned(),
            "/".to_owned(),
            String::new(),
        ] {
            assert_eq!(identify(&path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn takes_any_path_and_gives_only_ids_of_the_grammar(path in "/?[\\PC]{0,12}(\\.[A-Za-z0-9_-]{0,20}){0,4}(/\\PC{0,10})?") {
            if let Some((session, _)) = identify(&path) {
                prop_assert!(scheme().grammar.accepts(&session.id));
            }
        }
    }
}
