//! Common Media Client Data (CTA-5004): the player's own session id, key `sid`, in the query argument `CMCD` or as the
//! real-time field has it. The player chooses it, so it is not bound.

use std::borrow::Cow;

use super::component::{Component, Credential};
use super::request::{Request, unquoted};
use super::{Found, Grammar, Session};
use crate::logs::decode;

pub const NAME: &str = "cmcd";

/// The query argument.
const ARGUMENT: &str = "CMCD";

#[derive(Clone, Debug)]
pub struct Cmcd {
    grammar: Grammar,
}

impl Cmcd {
    pub fn new(grammar: Grammar) -> Self {
        Cmcd { grammar }
    }

    pub fn credential(&self, id: &str) -> Option<Credential> {
        self.grammar.accepts(id).then(|| Credential { component: Component::Cmcd, text: id.to_owned() })
    }

    pub fn identify<'a>(&self, request: &Request<'a>) -> Option<Found<'a>> {
        let id = match &request.cmcd_session {
            Some(sid) => unquoted(sid.trim()).to_owned(),
            None => sid(&decode(request.query_value(ARGUMENT)?))?.to_owned(),
        };
        if !self.grammar.accepts(&id) {
            return None;
        }
        let session =
            Session { bound: false, derived: false, credential: self.credential(&id), id, token_expires: None };
        Some(Found { session, path: Cow::Borrowed(request.path) })
    }
}

/// The value of the key sid in `key=value` pairs with commas between them. None where it occurs twice: WAF would
/// match both.
fn sid(pairs: &str) -> Option<&str> {
    let mut rest = pairs;
    let mut found = None;
    while !rest.is_empty() {
        let (key, behind) = rest.split_at(rest.find(['=', ',']).unwrap_or(rest.len()));
        let value = behind.strip_prefix('=').unwrap_or_default();
        // Commas within quotes are part of the value.
        let length = match value.strip_prefix('"') {
            Some(text) => text.find('"').map_or(value.len(), |end| end + 2),
            None => value.find(',').unwrap_or(value.len()),
        };
        if key.trim() == "sid" {
            // A text, and texts are in quotes: the rule demands them.
            let text = value[..length].strip_prefix('"')?.strip_suffix('"')?;
            if found.replace(text).is_some() {
                return None;
            }
        }
        let used = key.len() + usize::from(behind.starts_with('=')) + length;
        rest = rest[used..].strip_prefix(',').unwrap_or(&rest[used.max(1).min(rest.len())..]);
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "6e2fb550-c457-11e9-bb97-0800200c9a66";

    fn id(request: &Request<'_>) -> Option<String> {
        Cmcd::new(Grammar::new(6, 200, "A-Za-z0-9_-").unwrap()).identify(request).map(|found| found.session.id)
    }

    #[test]
    fn the_session_id_of_players() {
        // What a player sends, and how a log decoded once shows it.
        let query = format!("CMCD=bl%3D21300%2Cnor%3D%22..%252Fa%2Csid%3Dx%22%2Csid%3D%22{ID}%22%2Csf%3Dh&x=1");
        let request = Request { query: Some(query.into()), ..Request::default() };
        assert_eq!(id(&request).as_deref(), Some(ID));
        let field = Request { cmcd_session: Some(format!("\"{ID}\"").into()), ..Request::default() };
        assert_eq!(id(&field).as_deref(), Some(ID));
        for query in [
            "CMCD=bl%3D21300",
            "CMCD=",
            "sid=abcdefgh",
            "CMCD=sid%3D%22a%22",
            "CMCD=sid%3Dabcdefgh",
            "CMCD=com.x-sid%3D%22abcdefgh%22",
        ] {
            assert_eq!(id(&Request { query: Some(query.into()), ..Request::default() }), None, "{query}");
        }
        let twice = format!("sid=\"{ID}\",sid=\"other-session\"");
        assert_eq!(sid(&twice), None);
    }

    proptest! {
        #[test]
        fn takes_anything(pairs in "(sid|[a-z]{0,3}|[=,\"]|\\PC){0,20}") {
            sid(&pairs);
        }
    }
}
