//! Any request under every scheme: no panic, and ids and credentials only of what their grammar allows.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use streamwarden::session::request::Request;
use streamwarden::session::{Grammar, Identifier, Scheme, SchemeConfig};

static SCHEMES: LazyLock<Vec<Arc<[Scheme]>>> = LazyLock::new(|| {
    [
        "scheme = 'secure-media-delivery'",
        "scheme = 'jwt'\nquery = 'token'\nclaim = 'sid'",
        "scheme = 'jwt'\ncookie = 'token'\nclaim = 'sid'",
        "scheme = 'jwt'\nheader = 'token'\nclaim = 'sid'",
        "scheme = 'jwt'\npath_segment = 2\nclaim = 'sid'",
        "scheme = 'signed-cookie'\ncookie = 'sid'",
        "scheme = 'signed-url'\nquery = 'sid'",
        "scheme = 'stream-key'",
        "scheme = 'cmcd'",
        "scheme = 'custom'\nfield = 'cs-uri-stem'\npattern = '/(?<session>[^/]+)/'",
    ]
    .iter()
    .map(|text| [Scheme::try_from(toml::from_str::<SchemeConfig>(text).unwrap()).unwrap()].into())
    .collect()
});

fuzz_target!(|input: (&str, &str, &str, &str)| {
    let (path, query, cookie, headers) = input;
    let request = Request {
        path,
        query: Some(query.into()),
        cookie: Some(cookie.into()),
        headers: Some(headers),
        cmcd_session: None,
        ..Request::default()
    };
    let grammar = Grammar::new(6, 200, "A-Za-z0-9_-").unwrap();
    for scheme in SCHEMES.iter() {
        if let Some(playback) = Identifier::new(scheme.clone()).identify(&request) {
            assert!(grammar.accepts(&playback.session.id));
            assert!(playback.session.credential.as_ref().is_none_or(|credential| grammar.accepts(&credential.text)));
        }
    }
});
