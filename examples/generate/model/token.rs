//! How a session's token looks, and where in a request it stands.
//!
//! Secure Media Delivery at the Edge: the first path segment is
//! `<id>.<header>.<payload>.<signature>`, three dots, base64url. Claims as its SDK writes
//! them; `intsig` signs the session id, so without `ssn` there is none. Nobody holds the
//! secret: signatures are random, which does not matter to readers of logs.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use rand::distr::{Alphanumeric, SampleString};

/// Lifetime of a token, in seconds.
pub const LIFETIME_S: i64 = 4 * 3_600;

/// Id of the signing key.
const KEY_ID: &str = "8f14e45f-ceea-467f-a8f0-2b1c6d9e5a37";

/// A token scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `bound`: whether the signature covers the session id.
    SecureMediaDelivery { bound: bool },
}

/// A token that was issued for one session, split into where its parts go in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The session id that labels name.
    pub session_id: String,
    /// Goes before the path. Empty if the scheme puts nothing there.
    pub path_prefix: String,
}

impl Scheme {
    /// Issues a token for one asset, at a time in epoch seconds.
    pub fn issue(self, rng: &mut impl Rng, root: &str, now: i64) -> Grant {
        let Scheme::SecureMediaDelivery { bound } = self;
        let session_id = Alphanumeric.sample_string(rng, 12);
        let intsig = if bound { format!(r#","intsig":"{}""#, signature(rng)) } else { String::new() };
        let header = format!(r#"{{"alg":"HS256","kid":"{KEY_ID}","typ":"JWT"}}"#);
        let payload = format!(
            r#"{{"ip":false,"co":false,"cty":false,"reg":false,"ssn":{bound},"exp":{exp},"nbf":{nbf},"iat":{now},"headers":[],"qs":[]{intsig},"paths":["{root}/"],"exc":[]}}"#,
            exp = now + LIFETIME_S,
            nbf = now - 60,
        );
        let path_prefix = format!(
            "/{session_id}.{}.{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(payload),
            signature(rng),
        );
        Grant { session_id, path_prefix }
    }

    /// What an attacker makes of a token that he knows: the same session id, a signature
    /// that the edge will not accept.
    pub fn forge(self, rng: &mut impl Rng, grant: &Grant) -> Grant {
        let (kept, _) = grant.path_prefix.rsplit_once('.').unwrap_or_default();
        Grant { session_id: grant.session_id.clone(), path_prefix: format!("{kept}.{}", signature(rng)) }
    }
}

/// An HMAC-SHA256 in base64url: 43 characters.
fn signature(rng: &mut impl Rng) -> String {
    URL_SAFE_NO_PAD.encode(rng.random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use serde_json::Value;

    use super::*;

    fn parts(grant: &Grant) -> Vec<&str> {
        grant.path_prefix[1..].split('.').collect()
    }

    fn decode(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn a_token_has_the_parts_of_secure_media_delivery() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for bound in [true, false] {
            let scheme = Scheme::SecureMediaDelivery { bound };
            let grant = scheme.issue(&mut rng, "/live/sport1", 1_000_000);
            let [id, header, payload, signature] = parts(&grant)[..] else { panic!("three dots: {grant:?}") };
            assert_eq!(id, grant.session_id);
            assert_eq!((id.len(), signature.len()), (12, 43));
            assert_eq!(decode(header)["alg"], "HS256");
            let payload = decode(payload);
            assert_eq!(payload["ssn"], bound);
            assert_eq!(payload["exp"], 1_000_000 + LIFETIME_S);
            assert_eq!(payload["intsig"].is_string(), bound);
            assert_eq!(payload["paths"][0], "/live/sport1/");
        }
    }

    #[test]
    fn a_forged_token_differs_in_the_signature_only() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let scheme = Scheme::SecureMediaDelivery { bound: true };
        let grant = scheme.issue(&mut rng, "/vod/film-0001", 1_000_000);
        let forged = scheme.forge(&mut rng, &grant);
        assert_eq!(parts(&grant)[..3], parts(&forged)[..3]);
        assert_ne!(parts(&grant)[3], parts(&forged)[3]);
    }
}
