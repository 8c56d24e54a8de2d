//! The percent-encoding of CloudFront's log fields.
//!
//! Source: CloudFront Developer Guide, "Standard logs reference": control bytes, bytes from 127 on and
//! `< > " # % { } | \ ^ ~ [ ] ` '` and the space are encoded. As `%` itself is, an escape that the viewer
//! sent is logged doubled, and decoding exactly once gives the bytes that the viewer sent, which are what
//! WAF inspects.

use std::borrow::Cow;

/// Decodes once. Escapes that are none stay as they are; bytes that are no UTF-8 become U+FFFD.
pub fn decode(field: &str) -> Cow<'_, str> {
    let bytes = field.as_bytes();
    let Some(first) = memchr::memchr(b'%', bytes) else {
        return Cow::Borrowed(field);
    };
    let mut decoded = Vec::with_capacity(bytes.len());
    decoded.extend_from_slice(&bytes[..first]);
    let mut rest = &bytes[first..];
    while let Some((&byte, after)) = rest.split_first() {
        match (byte, after) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                decoded.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    Cow::Owned(match String::from_utf8(decoded) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The encoding as AWS documents it.
    fn encode(bytes: &[u8]) -> String {
        let mut encoded = String::new();
        for &byte in bytes {
            if byte <= 32 || byte >= 127 || b"<>\"#%{}|\\^~[]`'".contains(&byte) {
                encoded.push_str(&format!("%{byte:02X}"));
            } else {
                encoded.push(char::from(byte));
            }
        }
        encoded
    }

    #[test]
    fn decodes_once() {
        assert_eq!(decode("/plain-path"), "/plain-path");
        assert_eq!(decode("Mozilla/5.0%20(X11)"), "Mozilla/5.0 (X11)");
        assert_eq!(decode("url=http%253A%252F%252Fx"), "url=http%3A%2F%2Fx");
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%4"), "%zz%4");
        assert_eq!(decode("a%FFb"), "a\u{fffd}b");
        assert_eq!(decode("%1B[31m%00"), "\u{1b}[31m\0");
    }

    proptest! {
        #[test]
        fn undoes_what_cloudfront_does(text in any::<String>()) {
            let logged = encode(text.as_bytes());
            prop_assert_eq!(decode(&logged), text);
        }

        #[test]
        fn takes_anything(text in "[%0-9a-fA-F\\PC]{0,40}") {
            decode(&text);
        }
    }
}
