//! How a session's token looks, and where in a request it stands.
//!
//! Nobody holds the secrets: signatures are random, which does not matter to readers of logs.
//! A session's token under any scheme follows from its id under Secure Media Delivery, which
//! every scheme draws: the traffic is the same under all of them.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::ValueEnum;
use clap::builder::PossibleValue;
use rand::distr::{Alphanumeric, SampleString};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use super::request::HOST;

/// Lifetime of a token, in seconds.
pub const LIFETIME_S: i64 = 4 * 3_600;

/// Id of the key that signs tokens.
const KEY_ID: &str = "8f14e45f-ceea-467f-a8f0-2b1c6d9e5a37";

/// Id of the key that signs cookies and URLs of CloudFront.
const KEY_PAIR_ID: &str = "K2JCJMDEHXQW5F";

/// Cookies that have nothing to do with playback, before and after those that have.
const COOKIES: (&str, &str) = (
    "theme=dark; volume=80",
    "consent=ads%3Dno%26analytics%3Dno; campaign=autumn-2026; recent=film-0007%2Cfilm-0042%2Csport1%2Cfilm-0013%2Cnews%2Cfilm-0021%2Ckids%2Csport2%2Cfilm-0034%2Cfilm-0055",
);

/// A token scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Secure Media Delivery at the Edge: the first path segment is
    /// `<id>.<header>.<payload>.<signature>`. `bound`: whether the signature covers the id.
    SecureMediaDelivery { bound: bool },
    /// A JWT as the second path segment, after `/play`.
    JwtPath,
    /// A JWT as the argument `token`.
    JwtQuery,
    /// A JWT as the cookie `playback`.
    JwtCookie,
    /// A JWT as a bearer token in the header `Authorization`.
    JwtHeader,
    /// CloudFront's signed cookies with a policy of their own.
    SignedCookie,
    /// CloudFront's signed cookies with the canned policy.
    SignedCookieCanned,
    /// CloudFront's signed cookies and a cookie `session`, which holds an id.
    SignedCookieId,
    /// CloudFront's signed URLs, with one policy for the whole asset.
    SignedUrl,
    /// CloudFront's signed URLs with an argument `sid`, which holds an id.
    SignedUrlId,
    /// A key of 64 hexadecimal digits in the header `stream_key`.
    StreamKey,
    /// No token: players send Common Media Client Data in the query.
    CmcdQuery,
    /// No token: the id is the second path segment, after `/s`.
    Custom,
}

/// A token that was issued for one session, split into where its parts go in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The session id that labels name.
    pub session_id: String,
    /// Whose session it is: the same under every scheme.
    pub viewer: String,
    /// Goes before the path. Empty if the scheme puts nothing there.
    pub path_prefix: String,
    /// Goes before the other arguments of the query.
    pub query: Option<String>,
    /// The whole `Cookie` header.
    pub cookies: Option<String>,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// What players tell of the session in Common Media Client Data.
    pub cmcd_session_id: Option<String>,
    /// The part that an attacker cannot make.
    signature: String,
}

impl Grant {
    /// How many bytes a request is longer for it, about.
    pub fn bytes(&self) -> usize {
        let texts = self.query.iter().chain(&self.cookies).chain(self.headers.iter().map(|(_, value)| value));
        self.path_prefix.len() + texts.map(String::len).sum::<usize>()
    }
}

impl ValueEnum for Scheme {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Scheme::SecureMediaDelivery { bound: true },
            Scheme::SecureMediaDelivery { bound: false },
            Scheme::JwtPath,
            Scheme::JwtQuery,
            Scheme::JwtCookie,
            Scheme::JwtHeader,
            Scheme::SignedCookie,
            Scheme::SignedCookieCanned,
            Scheme::SignedCookieId,
            Scheme::SignedUrl,
            Scheme::SignedUrlId,
            Scheme::StreamKey,
            Scheme::CmcdQuery,
            Scheme::Custom,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl Scheme {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::SecureMediaDelivery { bound: true } => "secure-media-delivery",
            Scheme::SecureMediaDelivery { bound: false } => "secure-media-delivery-unbound",
            Scheme::JwtPath => "jwt-path",
            Scheme::JwtQuery => "jwt-query",
            Scheme::JwtCookie => "jwt-cookie",
            Scheme::JwtHeader => "jwt-header",
            Scheme::SignedCookie => "signed-cookie",
            Scheme::SignedCookieCanned => "signed-cookie-canned",
            Scheme::SignedCookieId => "signed-cookie-id",
            Scheme::SignedUrl => "signed-url",
            Scheme::SignedUrlId => "signed-url-id",
            Scheme::StreamKey => "stream-key",
            Scheme::CmcdQuery => "cmcd-query",
            Scheme::Custom => "custom",
        }
    }

    /// The status with which the edge refuses a token.
    pub fn refused_status(self) -> u16 {
        if self == Scheme::StreamKey { 500 } else { 403 }
    }

    /// Issues a token for one asset, at a time in epoch seconds.
    pub fn issue(self, rng: &mut impl Rng, root: &str, now: i64) -> Grant {
        let viewer = Alphanumeric.sample_string(rng, 12);
        let (id_signature, delivery_signature) = (hmac(rng.random()), hmac(rng.random()));
        let rng = &mut ChaCha8Rng::from_seed(Sha256::digest(&viewer).into());
        let signature = match self {
            Scheme::SecureMediaDelivery { .. } => delivery_signature,
            _ => self.signature(rng.random()),
        };
        let id = match self {
            Scheme::SecureMediaDelivery { .. } => viewer.clone(),
            _ if self.is_derived() => hex(&signature)[..32].to_owned(),
            Scheme::CmcdQuery => uuid::Builder::from_random_bytes(rng.random()).into_uuid().to_string(),
            Scheme::Custom => Alphanumeric.sample_string(rng, 16),
            _ => Alphanumeric.sample_string(rng, 12),
        };
        let expires = now + LIFETIME_S;
        let jwt = || {
            let payload = format!(r#"{{"sid":"{id}","iat":{now},"exp":{expires}}}"#);
            dotted([r#"{"alg":"HS256","typ":"JWT"}"#, &payload], &signature)
        };
        let signed = |prefix: &str, until: &str, separator: &str| {
            let parts = [until, &format!("Signature={signature}"), &format!("Key-Pair-Id={KEY_PAIR_ID}")];
            parts.map(|part| format!("{prefix}{part}")).join(separator)
        };
        let signed_cookies = |until: &str| signed("CloudFront-", until, "; ");
        let signed_query = |until: &str| signed("", until, "&");

        let mut grant = Grant { session_id: id.clone(), viewer, ..Grant::default() };
        match self {
            Scheme::SecureMediaDelivery { bound } => {
                let token = dotted(secure_media_delivery(bound.then_some(&id_signature), root, now), &signature);
                grant.path_prefix = format!("/{id}.{token}");
            }
            Scheme::JwtPath => grant.path_prefix = format!("/play/{}", jwt()),
            Scheme::JwtQuery => grant.query = Some(format!("token={}", jwt())),
            Scheme::JwtCookie => grant.cookies = cookies(&format!("playback={}", jwt())),
            Scheme::JwtHeader => grant.headers.push(("Authorization", format!("Bearer {}", jwt()))),
            Scheme::SignedCookie => grant.cookies = cookies(&signed_cookies(&policy(root, expires))),
            Scheme::SignedCookieCanned => grant.cookies = cookies(&signed_cookies(&format!("Expires={expires}"))),
            Scheme::SignedCookieId => {
                grant.cookies = cookies(&format!("session={id}; {}", signed_cookies(&policy(root, expires))));
            }
            Scheme::SignedUrl => grant.query = Some(signed_query(&policy(root, expires))),
            Scheme::SignedUrlId => grant.query = Some(format!("sid={id}&{}", signed_query(&policy(root, expires)))),
            Scheme::StreamKey => grant.headers.push(("stream_key", signature.clone())),
            Scheme::CmcdQuery => {
                grant.query = Some(cmcd(&id, root));
                grant.cmcd_session_id = Some(id);
            }
            Scheme::Custom => grant.path_prefix = format!("/s/{id}"),
        }
        Grant { signature, ..grant }
    }

    /// What an attacker makes of a token that he knows: the same session id, a signature
    /// that the edge will not accept. Where the signature is the id he sends the very same.
    pub fn forge(self, rng: &mut impl Rng, grant: &Grant) -> Grant {
        let forged = self.signature(rng.random());
        if self.is_derived() || grant.signature.is_empty() {
            return grant.clone();
        }
        let replace = |text: &String| text.replace(&grant.signature, &forged);
        Grant {
            path_prefix: replace(&grant.path_prefix),
            query: grant.query.as_ref().map(replace),
            cookies: grant.cookies.as_ref().map(replace),
            headers: grant.headers.iter().map(|(name, value)| (*name, replace(value))).collect(),
            ..grant.clone()
        }
    }

    /// Whether the session id is made from the signature.
    fn is_derived(self) -> bool {
        matches!(self, Scheme::SignedCookie | Scheme::SignedCookieCanned | Scheme::SignedUrl | Scheme::StreamKey)
    }

    /// A signature of the scheme's kind. Empty if there is none.
    fn signature(self, random: [u8; 32]) -> String {
        match self {
            Scheme::SecureMediaDelivery { .. }
            | Scheme::JwtPath
            | Scheme::JwtQuery
            | Scheme::JwtCookie
            | Scheme::JwtHeader => hmac(random),
            Scheme::SignedCookie
            | Scheme::SignedCookieCanned
            | Scheme::SignedCookieId
            | Scheme::SignedUrl
            | Scheme::SignedUrlId => rsa(random),
            Scheme::StreamKey => hex(random),
            Scheme::CmcdQuery | Scheme::Custom => String::new(),
        }
    }
}

/// Header and payload of Secure Media Delivery, as its SDK writes them. `intsig` signs the
/// session id; without it `ssn` is false.
fn secure_media_delivery(intsig: Option<&String>, root: &str, now: i64) -> [String; 2] {
    let bound = intsig.is_some();
    let intsig = intsig.map(|signature| format!(r#","intsig":"{signature}""#)).unwrap_or_default();
    let header = format!(r#"{{"alg":"HS256","kid":"{KEY_ID}","typ":"JWT"}}"#);
    let payload = format!(
        r#"{{"ip":false,"co":false,"cty":false,"reg":false,"ssn":{bound},"exp":{exp},"nbf":{nbf},"iat":{now},"headers":[],"qs":[]{intsig},"paths":["{root}/"],"exc":[]}}"#,
        exp = now + LIFETIME_S,
        nbf = now - 60,
    );
    [header, payload]
}

/// A JWT of a header, a payload and a signature.
fn dotted(parts: [impl AsRef<[u8]>; 2], signature: &str) -> String {
    let [header, payload] = parts.map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{header}.{payload}.{signature}")
}

/// The argument of CloudFront that says how long an asset may be watched.
fn policy(root: &str, expires: i64) -> String {
    let policy = format!(
        r#"{{"Statement":[{{"Resource":"https://{HOST}{root}/*","Condition":{{"DateLessThan":{{"AWS:EpochTime":{expires}}}}}}}]}}"#
    );
    format!("Policy={}", cloudfront_base64(policy.as_bytes()))
}

/// A `Cookie` header with the cookies of a scheme.
fn cookies(own: &str) -> Option<String> {
    let (before, after) = COOKIES;
    Some(format!("{before}; {own}; {after}"))
}

/// The argument that a player sends: its keys in alphabetical order, percent-encoded.
fn cmcd(id: &str, root: &str) -> String {
    let (delivery, content) = root.rsplit_once('/').unwrap_or_default();
    let stream_type = if delivery == "/live" { "l" } else { "v" };
    format!("CMCD=bl%3D21300%2Cbr%3D3200%2Ccid%3D%22{content}%22%2Csf%3Dh%2Csid%3D%22{id}%22%2Cst%3D{stream_type}")
}

/// An HMAC-SHA256 in base64url: 43 characters.
fn hmac(random: [u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(random)
}

/// An RSA signature of 2,048 bits as CloudFront spells it.
fn rsa(seed: [u8; 32]) -> String {
    let mut bytes = [0; 256];
    ChaCha8Rng::from_seed(seed).fill(&mut bytes[..]);
    cloudfront_base64(&bytes)
}

/// Base64 with those characters replaced that mean something in a URL.
fn cloudfront_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes).replace('+', "-").replace('=', "_").replace('/', "~")
}

/// A SHA-256 in hexadecimal digits.
fn hex(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const ROOT: &str = "/live/sport1";

    /// A token and one that an attacker made of it.
    fn issue(scheme: Scheme) -> (Grant, Grant) {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let grant = scheme.issue(&mut rng, ROOT, 1_000_000);
        let forged = scheme.forge(&mut rng, &grant);
        (grant, forged)
    }

    fn decode(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    fn decode_cloudfront(text: &str) -> Vec<u8> {
        STANDARD.decode(text.replace('-', "+").replace('_', "=").replace('~', "/")).unwrap()
    }

    /// The value of `NAME=` in a query or a `Cookie` header.
    fn value<'a>(text: &'a Option<String>, name: &str) -> Option<&'a str> {
        let mut pairs = text.as_deref()?.split(['&', ';']).map(|pair| pair.trim().split_once('=').unwrap());
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    #[test]
    fn names_are_read_back() {
        for scheme in Scheme::value_variants() {
            assert_eq!(Scheme::from_str(scheme.name(), false), Ok(*scheme));
        }
    }

    #[test]
    fn a_token_has_the_parts_of_secure_media_delivery() {
        for bound in [true, false] {
            let (grant, _) = issue(Scheme::SecureMediaDelivery { bound });
            let parts: Vec<&str> = grant.path_prefix[1..].split('.').collect();
            let [id, header, payload, signature] = parts[..] else { panic!("three dots: {grant:?}") };
            assert_eq!((id, id), (grant.session_id.as_str(), grant.viewer.as_str()));
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
    fn a_jwt_stands_where_the_scheme_says() {
        let token = |scheme| {
            let (grant, _) = issue(scheme);
            let token = match scheme {
                Scheme::JwtPath => grant.path_prefix.strip_prefix("/play/"),
                Scheme::JwtQuery => value(&grant.query, "token"),
                Scheme::JwtCookie => value(&grant.cookies, "playback"),
                _ => grant.headers[0].1.strip_prefix("Bearer "),
            };
            (token.unwrap().to_owned(), grant.session_id)
        };
        let (jwt, session_id) = token(Scheme::JwtPath);
        for scheme in [Scheme::JwtQuery, Scheme::JwtCookie, Scheme::JwtHeader] {
            assert_eq!(token(scheme), (jwt.clone(), session_id.clone()));
        }
        let parts: Vec<&str> = jwt.split('.').collect();
        let [header, payload, signature] = parts[..] else { panic!("two dots: {jwt}") };
        assert_eq!(decode(header)["alg"], "HS256");
        let claims = decode(payload);
        assert_eq!((&claims["sid"], &claims["iat"]), (&session_id.into(), &1_000_000.into()));
        assert_eq!(claims["exp"], 1_000_000 + LIFETIME_S);
        assert_eq!(signature.len(), 43);
    }

    #[test]
    fn signed_cookies_and_urls_are_cloudfronts() {
        for (scheme, id) in [
            (Scheme::SignedCookie, None),
            (Scheme::SignedCookieCanned, None),
            (Scheme::SignedCookieId, Some("session")),
            (Scheme::SignedUrl, None),
            (Scheme::SignedUrlId, Some("sid")),
        ] {
            let (grant, _) = issue(scheme);
            let (text, prefix) =
                if grant.query.is_some() { (&grant.query, "") } else { (&grant.cookies, "CloudFront-") };
            let argument = |name: &str| value(text, &format!("{prefix}{name}"));
            let signature = argument("Signature").unwrap();
            assert_eq!(decode_cloudfront(signature).len(), 256);
            assert_eq!(argument("Key-Pair-Id"), Some(KEY_PAIR_ID));
            let expires = 1_000_000 + LIFETIME_S;
            if scheme == Scheme::SignedCookieCanned {
                assert_eq!(argument("Expires"), Some(expires.to_string().as_str()));
            } else {
                let policy: Value = serde_json::from_slice(&decode_cloudfront(argument("Policy").unwrap())).unwrap();
                let statement = &policy["Statement"][0];
                assert_eq!(statement["Resource"], "https://media.example.com/live/sport1/*");
                assert_eq!(statement["Condition"]["DateLessThan"]["AWS:EpochTime"], expires);
            }
            let expected = match id {
                Some(name) => value(text, name).unwrap().to_owned(),
                None => hex(signature)[..32].to_owned(),
            };
            assert_eq!(grant.session_id, expected);
        }
    }

    #[test]
    fn the_other_schemes_name_an_id() {
        let (grant, _) = issue(Scheme::StreamKey);
        let (name, key) = &grant.headers[0];
        assert_eq!((*name, key.len()), ("stream_key", 64));
        assert_eq!(grant.session_id, hex(key)[..32]);
        let (grant, _) = issue(Scheme::CmcdQuery);
        assert!(grant.query.unwrap().contains(&format!("%2Csid%3D%22{}%22%2C", grant.session_id)));
        assert_eq!(grant.cmcd_session_id.as_ref(), Some(&grant.session_id));
        let (grant, _) = issue(Scheme::Custom);
        assert_eq!((grant.path_prefix, grant.session_id.len()), (format!("/s/{}", grant.session_id), 16));
    }

    #[test]
    fn a_forged_token_differs_in_the_signature_only() {
        for &scheme in Scheme::value_variants() {
            let (grant, forged) = issue(scheme);
            let signed = !scheme.is_derived() && !grant.signature.is_empty();
            assert_eq!(grant != forged, signed, "{scheme:?}");
            assert_eq!((&grant.session_id, grant.bytes()), (&forged.session_id, forged.bytes()));
            if let Scheme::SecureMediaDelivery { .. } = scheme {
                let kept = |grant: &Grant| grant.path_prefix.rsplit_once('.').unwrap().0.to_owned();
                assert_eq!(kept(&grant), kept(&forged));
            }
        }
    }
}
