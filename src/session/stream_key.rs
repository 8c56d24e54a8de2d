//! A key that the edge made for one viewer, in the header `stream_key`: an HMAC over address, user agent, path, host and
//! expiry. Only real-time logs show headers.
//!
//! The key is good for one address and agent only, so that a leaked one shows as refusals from other networks.

use std::borrow::Cow;

use super::component::{Component, Credential};
use super::request::Request;
use super::{Found, Session, token};

pub const NAME: &str = "stream-key";

const HEADER: &str = "stream_key";

/// The status with which the edge refuses a key that is not the viewer's.
pub const REFUSED_STATUS: u16 = 500;

#[derive(Clone, Copy, Debug)]
pub struct StreamKey;

impl StreamKey {
    pub fn credential(&self, key: &str) -> Option<Credential> {
        let component = Component::Header(HEADER.to_owned());
        token::fragment(key).map(|text| Credential { component, text })
    }

    pub fn identify<'a>(&self, request: &Request<'a>) -> Option<Found<'a>> {
        let key = request.header_value(HEADER).filter(|key| !key.is_empty())?;
        let session = Session {
            id: token::derived_id(&key),
            bound: false,
            derived: true,
            credential: self.credential(&key),
            token_expires: None,
        };
        Some(Found { session, path: Cow::Borrowed(request.path) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_stands_in_for_an_id() {
        let key = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
        let headers = format!("host:x%0AStream_Key:{key}%0A");
        let request = Request { headers: Some(&headers), ..Request::default() };
        let session = StreamKey.identify(&request).unwrap().session;
        assert_eq!((session.id, session.derived, session.bound), (token::derived_id(key), true, false));
        assert_eq!(session.credential.unwrap().text, key[..22]);
        assert_eq!(StreamKey.identify(&Request { headers: Some("stream_key:%0A"), ..Request::default() }), None);
        assert_eq!(StreamKey.identify(&Request::default()), None);
    }
}
