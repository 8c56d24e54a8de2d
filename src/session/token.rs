//! What is read from tokens: claims and policies (without verifying: the edge did that), the fragment of a signature that
//! WAF matches, and the id that stands in for one.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The longest payload that is looked into; CloudFront takes no URL over 8,192 bytes.
const MAX_PAYLOAD_BYTES: usize = 8_192;

/// The claims in the payload part of a token; none if it is no base64url of a JSON object.
pub fn claims(payload: &str) -> Option<Map<String, Value>> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// When the token expires. Whole seconds since the epoch, or milliseconds where there are 13 digits.
pub fn expires(claims: &Map<String, Value>) -> Option<DateTime<Utc>> {
    number(claims.get("exp")?)
}

fn number(value: &Value) -> Option<DateTime<Utc>> {
    epoch(value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))?)
}

/// An instant as tokens write it: seconds since the epoch, or milliseconds from 13 digits on.
pub fn epoch(value: i64) -> Option<DateTime<Utc>> {
    if value >= 1_000_000_000_000 { DateTime::from_timestamp_millis(value) } else { DateTime::from_timestamp(value, 0) }
}

/// When a CloudFront policy expires. `policy` is base64 with `-`, `_`, `~` for `+`, `=`, `/`.
/// Source: CloudFront Developer Guide, "Create a policy statement for a signed URL that uses a custom policy".
pub fn policy_expires(policy: &str) -> Option<DateTime<Utc>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    if policy.len() > 2 * MAX_PAYLOAD_BYTES {
        return None;
    }
    let standard: String = policy
        .chars()
        .map(|c| match c {
            '-' => '+',
            '_' => '=',
            '~' => '/',
            other => other,
        })
        .collect();
    let policy: Value = serde_json::from_slice(&LENIENT.decode(standard).ok()?).ok()?;
    number(policy.pointer("/Statement/0/Condition/DateLessThan/AWS:EpochTime")?)
}

/// An instant in a text: `Expires`, `CloudFront-Expires`.
pub fn text_expires(text: &str) -> Option<DateTime<Utc>> {
    text.parse().ok().and_then(epoch)
}

/// Characters of a fragment: 96 bits of base64, 88 of hexadecimal. Nobody can make a token with a given one, and no two
/// tokens have the same by chance. Every character more would cost room in the rules.
const BASE64_FRAGMENT: usize = 16;
const HEXADECIMAL_FRAGMENT: usize = 22;

/// The least of a signature, without its last character, that WAF is given to match.
const SHORTEST_FRAGMENT: usize = 10;

/// How long a fragment of this signature has to be, to be found nowhere else.
fn enough(signature: &str) -> usize {
    let hexadecimal = signature.bytes().take(BASE64_FRAGMENT).all(|byte| byte.is_ascii_hexdigit());
    if hexadecimal { HEXADECIMAL_FRAGMENT } else { BASE64_FRAGMENT }
}

/// Whether a piece of a signature is long enough to be found nowhere else.
pub fn is_fragment(piece: &str) -> bool {
    piece.len() >= enough(piece)
}

/// The piece of a signature that WAF matches; never enough to play. `signature` is as the client sent it.
///
/// The first characters that make a fragment and that every client spells alike: no escape and no `~` (which some escape) in
/// between, and never the last character, which has several spellings in base64. A signature that is shorter
/// is taken whole but for that character. None where there is no such piece.
pub fn fragment(signature: &str) -> Option<String> {
    let signature = signature.trim_end_matches(['=', '_']);
    let (last, _) = signature.char_indices().next_back()?;
    let sure = &signature[..last];
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut rest = sure;
    while let Some(start) = rest.find(plain) {
        let run = &rest[start..];
        let end = run.find(|c| !plain(c)).unwrap_or(run.len());
        if is_fragment(&run[..end]) {
            return Some(run[..enough(run)].to_owned());
        }
        rest = &run[end..];
        if rest.starts_with('%') {
            // The two digits behind it belong to the escape.
            rest = rest.get(3..).unwrap_or_default();
        }
    }
    (sure.len() >= SHORTEST_FRAGMENT && !is_fragment(sure) && sure.chars().all(plain)).then(|| sure.to_owned())
}

/// The beginning of a token's last part, as far as a rule needs it, or all but its last character of a short one. None where
/// it holds what is not base64url.
pub fn beginning(signature: &str) -> Option<String> {
    let signature = signature.trim_end_matches('=');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let length = signature.len().saturating_sub(1).min(enough(signature));
    (length >= SHORTEST_FRAGMENT && signature.bytes().all(plain)).then(|| signature[..length].to_owned())
}

/// The id that stands in where there is none: the first 32 hexadecimal digits of the value's SHA-256.
pub fn derived_id(value: &str) -> String {
    Sha256::digest(value).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_of_cloudfront() {
        let policy = r#"{"Statement":[{"Resource":"https://media.example.com/*?","Condition":{"DateLessThan":{"AWS:EpochTime":1795200000}}}]}"#;
        let encoded = base64::engine::general_purpose::STANDARD.encode(policy);
        let expected = DateTime::from_timestamp(1_795_200_000, 0);
        let cloudfront = encoded.replace('+', "-").replace('=', "_").replace('/', "~");
        assert_eq!(policy_expires(&cloudfront), expected);
        assert_eq!(policy_expires(cloudfront.trim_end_matches('_')), expected);
        assert_eq!(policy_expires(&encoded), expected);
        for bad in ["", "e30_", "####", &cloudfront[1..]] {
            assert_eq!(policy_expires(bad), None, "{bad}");
        }
        assert_eq!(text_expires("1795200000000"), expected);
        assert_eq!(text_expires("soon"), None);
    }

    #[test]
    fn fragments_are_what_every_client_spells_alike() {
        let long = "abcdefghijklmnopqrstuvwxyz0123456789_";
        assert_eq!(fragment(long).as_deref(), Some("abcdefghijklmnop"));
        assert_eq!(fragment(&format!("ab~cd%7Eef{long}")).as_deref(), Some("efabcdefghijklmn"));
        assert_eq!(fragment("abcdefghijklmnop"), Some("abcdefghijklmno".to_owned()), "not the last one");
        let digits = "0123456789abcdef0123456789abcdef";
        assert_eq!(fragment(digits).as_deref(), Some(&digits[..22]), "hexadecimal says less");
        assert_eq!(fragment(&digits[..20]).as_deref(), Some(&digits[..19]));
        assert_eq!(fragment("abcdefghijk").as_deref(), Some("abcdefghij"));
        for none in
            ["", "abcdefghij", "abcdef~ghijklmnop", "äöüäöüäöüäöüäöüäöüäöüäöü", "%41%42%43%44%45%46%47%48%49%4A"]
        {
            assert_eq!(fragment(none), None, "{none}");
        }
    }

    #[test]
    fn a_derived_id_is_the_beginning_of_the_digest() {
        assert_eq!(derived_id("abc"), "ba7816bf8f01cfea414140de5dae2223");
    }

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
