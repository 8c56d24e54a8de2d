//! A request as the edge saw it, independent of any log format.

use std::net::IpAddr;
use std::sync::Arc;

use rand::Rng;

use super::token::Grant;

/// The requested host of the service.
pub const HOST: &str = "media.example.com";

/// One request. Texts are as the client sent them, before any encoding by a log format.
#[derive(Clone, Debug)]
pub struct Request {
    /// When the edge finished responding, in epoch milliseconds.
    pub finished: i64,
    pub client: IpAddr,
    pub port: u16,
    pub method: &'static str,
    /// The token that came with it. Where it stands in the request is the token's business.
    pub grant: Option<Arc<Grant>>,
    /// Path without the token.
    pub path: String,
    /// Query string without `?`, without the token.
    pub query: Option<String>,
    /// 0 where the viewer left before any response.
    pub status: u16,
    /// Bytes sent to the viewer, headers included.
    pub bytes_sent: u64,
    /// Bytes that the viewer sent, headers included.
    pub bytes_received: u32,
    pub referer: Option<Arc<str>>,
    pub agent: Option<Arc<str>>,
    pub forwarded_for: Option<&'static str>,
    pub time_taken_ms: u32,
    pub first_byte_ms: u32,
    pub outcome: Outcome,
    pub edge: &'static str,
    pub id: [u8; 40],
    pub content_type: Option<&'static str>,
    pub content_length: Option<u64>,
    /// First and last byte of a range request.
    pub range: Option<(u64, u64)>,
    pub http: &'static str,
    /// Whether it came over TLS.
    pub secure: bool,
}

impl Request {
    /// A request of which only client, port and id are set.
    pub fn new(rng: &mut impl Rng, client: IpAddr) -> Self {
        Request {
            finished: 0,
            client,
            port: rng.random_range(1_025..=65_535),
            method: "GET",
            grant: None,
            path: String::new(),
            query: None,
            status: 200,
            bytes_sent: 0,
            bytes_received: 0,
            referer: None,
            agent: None,
            forwarded_for: None,
            time_taken_ms: 0,
            first_byte_ms: 0,
            outcome: Outcome::HIT,
            edge: "LHR50-C1",
            id: std::array::from_fn(|_| rng.random()),
            content_type: None,
            content_length: None,
            range: None,
            http: "HTTP/2.0",
            secure: true,
        }
    }

    /// Path as the client sent it, with the token where the scheme puts it there.
    pub fn full_path(&self) -> String {
        match &self.grant {
            Some(grant) => format!("{}{}", grant.path_prefix, self.path),
            None => self.path.clone(),
        }
    }

    /// Query as the client sent it, with the token where the scheme puts it there.
    pub fn full_query(&self) -> Option<String> {
        let token = self.grant.as_ref().and_then(|grant| grant.query.clone());
        match (token, &self.query) {
            (Some(token), Some(query)) => Some(format!("{token}&{query}")),
            (token, query) => token.or_else(|| query.clone()),
        }
    }
}

/// How the edge classified a request: CloudFront's three result types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// After the last byte.
    pub result: &'static str,
    /// Before the first byte.
    pub response: &'static str,
    pub detail: &'static str,
}

impl Outcome {
    pub const HIT: Outcome = Outcome::plain("Hit");
    pub const MISS: Outcome = Outcome::plain("Miss");
    pub const REFRESH_HIT: Outcome = Outcome::plain("RefreshHit");
    pub const ERROR: Outcome = Outcome::plain("Error");
    pub const REDIRECT: Outcome = Outcome::plain("Redirect");
    /// The viewer hung up during a good response.
    pub const ABORTED: Outcome = Outcome { result: "Error", response: "Hit", detail: "ClientHungUpRequest" };
    /// The viewer hung up before a response.
    pub const GONE: Outcome = Outcome { result: "Error", response: "Error", detail: "ClientCommError" };
    /// The token check at the edge said no.
    pub const REFUSED: Outcome = Outcome {
        result: "FunctionGeneratedResponse",
        response: "FunctionGeneratedResponse",
        detail: "FunctionGeneratedResponse",
    };

    const fn plain(result: &'static str) -> Self {
        Outcome { result, response: result, detail: result }
    }
}
