//! The claims of a JSON Web Token (RFC 7519), read without verifying: the edge verified them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

/// The longest payload that is looked into; CloudFront takes no URL over 8,192 bytes.
const MAX_PAYLOAD_BYTES: usize = 8_192;

/// The claims in the payload part; none if it is no base64url of a JSON object.
pub fn claims(payload: &str) -> Option<Map<String, Value>> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// When the token expires. Whole seconds since the epoch, or milliseconds where there are 13 digits.
pub fn expires(claims: &Map<String, Value>) -> Option<DateTime<Utc>> {
    let exp = claims.get("exp")?;
    epoch(exp.as_i64().or_else(|| exp.as_f64().map(|seconds| seconds as i64))?)
}

/// An instant as tokens write it: seconds since the epoch, or milliseconds from 13 digits on.
pub fn epoch(value: i64) -> Option<DateTime<Utc>> {
    if value >= 1_000_000_000_000 { DateTime::from_timestamp_millis(value) } else { DateTime::from_timestamp(value, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_in_seconds_and_milliseconds() {
        let expected = DateTime::from_timestamp(1_795_200_000, 0);
        for payload in [r#"{"exp":1795200000}"#, r#"{"exp":1795200000000}"#, r#"{"exp":1795200000.9}"#] {
            let claims = claims(&URL_SAFE_NO_PAD.encode(payload)).unwrap();
            assert_eq!(expires(&claims), expected, "{payload}");
        }
    }

    #[test]
    fn what_is_no_token_has_no_claims() {
        for payload in ["", "####", "bm90IGpzb24", "W10"] {
            assert!(claims(payload).is_none(), "{payload}");
        }
        let odd = claims(&URL_SAFE_NO_PAD.encode(r#"{"exp":"soon"}"#)).unwrap();
        assert_eq!(expires(&odd), None);
        let huge = claims(&URL_SAFE_NO_PAD.encode(r#"{"exp":1e300}"#)).unwrap();
        assert_eq!(expires(&huge), None);
    }
}
