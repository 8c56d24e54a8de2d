//! CloudFront's own signed cookies and signed URLs, with a custom policy or the canned one.
//!
//! They carry no session. Where the config names a cookie or argument that does, its value is the id, which the viewer
//! can choose. Else the signature stands in for one: viewers with equal policies have equal signatures (RSA PKCS#1 v1.5 is
//! deterministic), and a canned URL has a signature of its own for every file.
//! Source: CloudFront Developer Guide, "Use signed cookies", "Use signed URLs".

use std::borrow::Cow;

use super::component::{Component, Credential};
use super::request::Request;
use super::{Found, Grammar, Session, token};
use crate::logs::decode;
use crate::logs::fields::Field;

pub const COOKIE_NAME: &str = "signed-cookie";
pub const URL_NAME: &str = "signed-url";

/// Both schemes: they differ in where things stand.
#[derive(Clone, Debug)]
pub struct Signed {
    grammar: Grammar,
    place: Place,
    /// The cookie or argument that holds an id.
    id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Cookie,
    Url,
}

impl Signed {
    pub fn new(grammar: Grammar, place: Place, id: Option<String>) -> Self {
        Signed { grammar, place, id }
    }

    pub fn name(&self) -> &'static str {
        match self.place {
            Place::Cookie => COOKIE_NAME,
            Place::Url => URL_NAME,
        }
    }

    /// The cookie or argument that holds an id, if one was named.
    pub fn id_place(&self) -> Option<String> {
        let kind = match self.place {
            Place::Cookie => "cookie",
            Place::Url => "query argument",
        };
        self.id.as_ref().map(|name| format!("{kind} {name}"))
    }

    /// The field that has to be read.
    pub fn field(&self) -> Field {
        match self.place {
            Place::Cookie => Field::Cookie,
            Place::Url => Field::Query,
        }
    }

    /// Of the signature, the policy and the expiry.
    fn names(&self) -> [&'static str; 3] {
        match self.place {
            Place::Cookie => ["CloudFront-Signature", "CloudFront-Policy", "CloudFront-Expires"],
            Place::Url => ["Signature", "Policy", "Expires"],
        }
    }

    pub fn credential(&self, signature: &str) -> Option<Credential> {
        let [name, ..] = self.names();
        let component = match self.place {
            Place::Cookie => Component::Cookie(name.to_owned()),
            Place::Url => Component::Query(name.to_owned()),
        };
        token::fragment(signature).map(|text| Credential { component, text })
    }

    pub fn identify<'a>(&self, request: &Request<'a>) -> Option<Found<'a>> {
        let value = |name: &str| match self.place {
            Place::Cookie => request.cookie_value(name),
            Place::Url => request.query_value(name),
        };
        let [signature, policy, expires] = self.names();
        let sent = value(signature).filter(|sent| !sent.is_empty())?;
        let id = match self.id.as_deref().and_then(value).map(decode) {
            Some(id) if self.grammar.accepts(&id) => Some(id.into_owned()),
            // What is no id counts as none.
            Some(_) => return None,
            None => None,
        };
        let derived = id.is_none();
        let session = Session {
            id: id.unwrap_or_else(|| token::derived_id(&decode(sent))),
            bound: false,
            derived,
            credential: self.credential(sent),
            token_expires: match value(policy) {
                Some(policy) => token::policy_expires(&decode(policy)),
                None => value(expires).and_then(token::text_expires),
            },
        };
        Some(Found { session, path: Cow::Borrowed(request.path) })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn scheme(place: Place, id: Option<&str>) -> Signed {
        Signed::new(Grammar::new(6, 200, "A-Za-z0-9_-").unwrap(), place, id.map(str::to_owned))
    }

    fn signature() -> String {
        STANDARD.encode([0xa7; 256]).replace('+', "-").replace('=', "_").replace('/', "~")
    }

    fn policy() -> String {
        let policy =
            r#"{"Statement":[{"Resource":"https://m/*","Condition":{"DateLessThan":{"AWS:EpochTime":1795200000}}}]}"#;
        STANDARD.encode(policy).replace('+', "-").replace('=', "_").replace('/', "~")
    }

    #[test]
    fn policies_custom_and_canned_in_cookies_and_urls() {
        let expected = chrono::DateTime::from_timestamp(1_795_200_000, 0);
        for (place, text, component) in [
            (
                Place::Cookie,
                format!(
                    "CloudFront-Policy={}; CloudFront-Signature={}; CloudFront-Key-Pair-Id=K2",
                    policy(),
                    signature()
                ),
                "cookie:CloudFront-Signature",
            ),
            (
                Place::Cookie,
                format!("CloudFront-Expires=1795200000; CloudFront-Signature={}", signature()),
                "cookie:CloudFront-Signature",
            ),
            (Place::Url, format!("Policy={}&Signature={}&Key-Pair-Id=K2", policy(), signature()), "query:Signature"),
            (Place::Url, format!("x=1&Expires=1795200000&Signature={}", signature()), "query:Signature"),
        ] {
            let request = Request {
                path: "/a.ts",
                query: Some(text.as_str().into()),
                cookie: Some(text.as_str().into()),
                ..Request::default()
            };
            let Session { id, bound, derived, credential, token_expires } =
                scheme(place, None).identify(&request).unwrap().session;
            assert_eq!((id, bound, derived), (token::derived_id(&signature()), false, true));
            assert_eq!(token_expires, expected, "{text}");
            let credential = credential.unwrap();
            assert_eq!(credential.component.to_string(), component);
            assert!(signature().contains(&credential.text));
        }
    }

    #[test]
    fn an_id_beside_the_signature() {
        let cookie = format!("session=Ab3dEf6hIj9k; CloudFront-Signature={}", signature());
        let request = Request { cookie: Some(cookie.into()), ..Request::default() };
        let session = scheme(Place::Cookie, Some("session")).identify(&request).unwrap().session;
        assert_eq!((session.id.as_str(), session.bound, session.derived), ("Ab3dEf6hIj9k", false, false));
        let without =
            Request { cookie: Some(format!("CloudFront-Signature={}", signature()).into()), ..Request::default() };
        assert!(scheme(Place::Cookie, Some("session")).identify(&without).unwrap().session.derived);
        let bad = Request {
            cookie: Some(format!("session=a; CloudFront-Signature={}", signature()).into()),
            ..Request::default()
        };
        assert_eq!(scheme(Place::Cookie, Some("session")).identify(&bad), None);
    }

    #[test]
    fn spellings_of_one_signature_are_one_session() {
        let sent = signature().replace('~', "%7E");
        let spelt = Request { query: Some(format!("Signature={sent}").into()), ..Request::default() };
        let plain = Request { query: Some(format!("Signature={}", signature()).into()), ..Request::default() };
        let id = |request: &Request<'_>| scheme(Place::Url, None).identify(request).unwrap().session.id;
        assert_eq!(id(&spelt), id(&plain));
    }

    proptest! {
        #[test]
        fn takes_anything(text in "((Signature|Policy|Expires|CloudFront-Signature)=\\PC{0,20}[&;]?){0,4}") {
            let request = Request {
                query: Some(text.as_str().into()),
                cookie: Some(text.as_str().into()),
                ..Request::default()
            };
            for place in [Place::Cookie, Place::Url] {
                if let Some(found) = scheme(place, None).identify(&request) {
                    prop_assert!(found.session.derived && found.session.id.len() == 32);
                }
            }
        }
    }
}
