//! How CloudFront spells texts and addresses in log files.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

/// Percent-encodes as CloudFront does: bytes 0 to 32 and from 127 on, and these characters,
/// `%` among them, so that an escape of the client is logged doubled.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte {
            0..=32
            | 127..
            | b'<'
            | b'>'
            | b'"'
            | b'#'
            | b'%'
            | b'{'
            | b'}'
            | b'|'
            | b'\\'
            | b'^'
            | b'~'
            | b'['
            | b']'
            | b'`'
            | b'\'' => {
                let _ = write!(out, "%{byte:02X}");
            }
            _ => out.push(char::from(byte)),
        }
    }
    out
}

/// An address; IPv6 shortest (RFC 5952), or with full groups and `::` as in AWS's example.
pub fn address(address: IpAddr, full_groups: bool) -> String {
    match address {
        IpAddr::V6(v6) if full_groups => groups(v6),
        _ => address.to_string(),
    }
}

fn groups(v6: Ipv6Addr) -> String {
    let full: Vec<String> = v6.segments().iter().map(|group| format!("{group:04x}")).collect();
    let full = full.join(":");
    // The longest run of zero groups, of two at least.
    for length in (2..=8).rev() {
        let run = vec!["0000"; length].join(":");
        if let Some(at) = full.find(&run) {
            let (before, after) = (&full[..at], &full[at + run.len()..]);
            return format!("{}::{}", before.trim_end_matches(':'), after.trim_start_matches(':'));
        }
    }
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_follows_cloudfront() {
        assert_eq!(encode("/a%20b"), "/a%2520b");
        assert_eq!(encode("\u{1b}[31m é"), "%1B%5B31m%20%C3%A9");
        assert_eq!(encode("q=a+b&c=(d);e,f/g"), "q=a+b&c=(d);e,f/g");
    }

    #[test]
    fn addresses_have_two_spellings() {
        let v6: Ipv6Addr = "2001:db8:85a3::8a2e:370:7334".parse().unwrap();
        assert_eq!(address(v6.into(), false), "2001:db8:85a3::8a2e:370:7334");
        assert_eq!(address(v6.into(), true), "2001:0db8:85a3::8a2e:0370:7334");
        for text in ["::1", "2001:db8::", "1:2:3:4:5:6:7:8", "2001:db8:0:0:1::1"] {
            let v6: Ipv6Addr = text.parse().unwrap();
            assert_eq!(groups(v6).parse(), Ok(v6), "{}", groups(v6));
        }
    }
}
