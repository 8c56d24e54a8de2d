//! JSON Web Tokens (RFC 7519) in a query argument, a cookie, a header or a segment of the path: the session is a claim.
//!
//! The signature is not verified; the edge did that. It covers the claim, so the session is bound, and a piece of it
//! is what WAF matches.

use std::borrow::Cow;

use serde_json::Value;

use super::component::{Component, Credential};
use super::request::Request;
use super::{Grammar, Session, token};
use crate::logs::decode;
use crate::logs::fields::Field;

pub const NAME: &str = "jwt";

#[derive(Clone, Debug)]
pub struct Jwt {
    grammar: Grammar,
    claim: String,
    place: Place,
}

/// Where the token stands.
#[derive(Clone, Debug)]
pub enum Place {
    Query(String),
    Cookie(String),
    Header(String),
    /// The segment of the path with this number, from 1.
    PathSegment(usize),
}

impl Jwt {
    pub fn new(grammar: Grammar, claim: String, place: Place) -> Self {
        Jwt { grammar, claim, place }
    }

    /// The field that has to be read beside the path.
    pub fn field(&self) -> Option<Field> {
        match self.place {
            Place::Query(_) => Some(Field::Query),
            Place::Cookie(_) => Some(Field::Cookie),
            Place::Header(_) => Some(Field::Headers),
            Place::PathSegment(_) => None,
        }
    }

    /// Of a whole token.
    pub fn credential(&self, jwt: &str) -> Option<Credential> {
        let mut parts = jwt.split('.');
        let (Some(_), Some(_), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return None;
        };
        token::beginning(signature)
            .map(|text| Credential { component: Component::Token(Box::new(self.component())), text })
    }

    fn component(&self) -> Component {
        match &self.place {
            Place::Query(name) => Component::Query(name.clone()),
            Place::Cookie(name) => Component::Cookie(name.clone()),
            Place::Header(name) => Component::Header(name.to_ascii_lowercase()),
            Place::PathSegment(number) => Component::Segment(*number),
        }
    }

    /// What stands where a token should, as it was sent, and the path without it.
    pub fn sent<'r, 'a>(&self, request: &'r Request<'a>) -> Option<(Cow<'r, str>, Cow<'a, str>)> {
        let sent = match &self.place {
            Place::Query(name) => Cow::Borrowed(request.query_value(name)?),
            // Behind the cut there may be another one, and that the one at which the edge looked.
            Place::Cookie(_) if request.cookie_cut => return None,
            Place::Header(_) if request.headers_cut => return None,
            Place::Cookie(name) => Cow::Borrowed(request.cookie_value(name)?),
            Place::Header(name) => request.header_value(name)?,
            Place::PathSegment(number) => {
                let segment = request.path.split('/').nth(*number)?;
                let start = segment.as_ptr() as usize - request.path.as_ptr() as usize;
                let path = request.path[..start - 1].to_owned() + &request.path[start + segment.len()..];
                return Some((Cow::Borrowed(segment), Cow::Owned(path)));
            }
        };
        Some((sent, Cow::Borrowed(request.path)))
    }

    /// The session of what was sent.
    pub fn read(&self, sent: &str) -> Option<Session> {
        let jwt = decode(sent);
        // As RFC 6750 has it in the header Authorization.
        let jwt = match jwt.split_once(' ') {
            Some((kind, jwt)) if kind.eq_ignore_ascii_case("bearer") => jwt.trim(),
            _ => &jwt,
        };
        let mut parts = jwt.split('.');
        let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || header.is_empty() || signature.is_empty() {
            return None;
        }
        let claims = token::claims(payload)?;
        let id = match claims.get(&self.claim)? {
            Value::String(id) => id.clone(),
            Value::Number(id) => id.to_string(),
            _ => return None,
        };
        if !self.grammar.accepts(&id) {
            return None;
        }
        // As it was sent, but for dots, which may be escaped: with another escape in it there is nothing to match.
        let credential = token::beginning(signature)
            .filter(|text| sent.contains(text.as_str()))
            .map(|text| Credential { component: Component::Token(Box::new(self.component())), text });
        Some(Session { id, bound: true, derived: false, credential, token_expires: token::expires(&claims) })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    const SIGNATURE: &str = "q3VvT-2bWlY_9dXf4kzM0aBcDeFgHiJkLmNoPqRsTuV";

    fn scheme(place: Place) -> Jwt {
        Jwt::new(Grammar::new(6, 200, "A-Za-z0-9_-").unwrap(), "sid".into(), place)
    }

    fn identify<'a>(place: Place, request: &Request<'a>) -> Option<(Session, Cow<'a, str>)> {
        let scheme = scheme(place);
        let (sent, path) = scheme.sent(request)?;
        Some((scheme.read(&sent)?, path))
    }

    fn token(payload: &str) -> String {
        format!("eyJhbGciOiJIUzI1NiJ9.{}.{SIGNATURE}", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn the_claim_wherever_the_token_stands() {
        let token = token(r#"{"sid":"Ab3dEf6hIj9k","exp":1795200000}"#);
        let query = format!("a=1&token={token}");
        let cookie = format!("a=1; playback={token}; b=2");
        let header = format!("Host:x%0AAuthorization:Bearer%20{token}%0A");
        let path = format!("/play/{token}/live/a.m3u8");
        let request = Request {
            path: &path,
            query: Some(query.into()),
            cookie: Some(cookie.into()),
            headers: Some(&header),
            ..Request::default()
        };
        for (place, component, rest) in [
            (Place::Query("token".into()), "token in query:token", path.as_str()),
            (Place::Cookie("playback".into()), "token in cookie:playback", path.as_str()),
            (Place::Header("Authorization".into()), "token in header:authorization", path.as_str()),
            (Place::PathSegment(2), "token in segment:2", "/play/live/a.m3u8"),
        ] {
            let (session, without) = identify(place, &request).unwrap();
            assert_eq!((session.id.as_str(), session.bound), ("Ab3dEf6hIj9k", true));
            assert_eq!(session.token_expires, chrono::DateTime::from_timestamp(1_795_200_000, 0));
            let credential = session.credential.unwrap();
            assert_eq!(
                (credential.component.to_string().as_str(), credential.text.as_str()),
                (component, &SIGNATURE[..16])
            );
            assert_eq!(without, rest);
        }
    }

    #[test]
    fn escapes_of_the_client_do_not_get_into_the_credential() {
        let token = token(r#"{"sid":"Ab3dEf6hIj9k"}"#).replace('.', "%2E");
        let request = Request { query: Some(format!("token={token}").into()), ..Request::default() };
        let (session, _) = identify(Place::Query("token".into()), &request).unwrap();
        assert_eq!(session.credential.unwrap().text, SIGNATURE[..16]);
    }

    #[test]
    fn behind_a_cut_there_may_be_another_token() {
        let token = token(r#"{"sid":"Ab3dEf6hIj9k"}"#);
        let cookie =
            Request { cookie: Some(format!("playback={token}").into()), cookie_cut: true, ..Request::default() };
        assert_eq!(identify(Place::Cookie("playback".into()), &cookie), None);
        let header = format!("authorization:{token}%0A");
        let header = Request { headers: Some(&header), headers_cut: true, ..Request::default() };
        assert_eq!(identify(Place::Header("authorization".into()), &header), None);
    }

    #[test]
    fn what_has_no_session() {
        for token in [
            token(r#"{"jti":"Ab3dEf6hIj9k"}"#),
            token(r#"{"sid":"abc"}"#),
            token(r#"{"sid":"späte-kunden"}"#),
            token(r#"{"sid":["Ab3dEf6hIj9k"]}"#),
            token(r#"{"sid":"Ab3dEf6hIj9k"}"#) + ".more.parts",
            "Ab3dEf6hIj9k".to_owned(),
            "..".to_owned(),
        ] {
            let request = Request { query: Some(format!("token={token}").into()), ..Request::default() };
            assert_eq!(identify(Place::Query("token".into()), &request), None, "{token}");
        }
        assert_eq!(identify(Place::PathSegment(9), &Request { path: "/a", ..Request::default() }), None);
    }

    proptest! {
        #[test]
        fn takes_anything(text in "\\PC{0,60}", number in 1usize..4) {
            let request = Request {
                path: &text,
                query: Some(text.as_str().into()),
                cookie: Some(text.as_str().into()),
                headers: Some(&text),
                ..Request::default()
            };
            for place in [Place::Query("a".into()), Place::Cookie("a".into()), Place::Header("a".into()), Place::PathSegment(number)] {
                prop_assert_eq!(identify(place, &request), None);
            }
        }
    }
}
