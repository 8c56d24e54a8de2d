//! What WAF matches to block a session, and where in a request.

use std::fmt;
use std::str::FromStr;

/// The piece of a request that WAF matches to block its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub component: Component,
    /// As the client sent it.
    pub text: String,
}

/// The component of a request that WAF inspects for a credential; the column `component` in text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// `path-start`: the path begins with `/`, the credential and a dot.
    PathStart,
    /// `path`
    Path,
    /// `query-string`: all of it.
    QueryString,
    /// `query:NAME`: the value of an argument.
    Query(String),
    /// `cookie:NAME`: the value of a cookie.
    Cookie(String),
    /// `header:NAME`
    Header(String),
    /// `cmcd`: the key sid of CMCD, in the query or in a header.
    Cmcd,
    /// `[CLASS] in COMPONENT`: the credential as a whole word there, before and behind it no character of the class.
    Word(String, Box<Component>),
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Component::PathStart => f.write_str("path-start"),
            Component::Path => f.write_str("path"),
            Component::QueryString => f.write_str("query-string"),
            Component::Query(name) => write!(f, "query:{name}"),
            Component::Cookie(name) => write!(f, "cookie:{name}"),
            Component::Header(name) => write!(f, "header:{name}"),
            Component::Cmcd => f.write_str("cmcd"),
            Component::Word(class, component) => write!(f, "[{class}] in {component}"),
        }
    }
}

impl FromStr for Component {
    type Err = ();

    fn from_str(text: &str) -> Result<Component, ()> {
        if let Some((class, component)) = text.strip_prefix('[').and_then(|text| text.split_once("] in ")) {
            return Ok(Component::Word(class.to_owned(), Box::new(component.parse()?)));
        }
        Ok(match text.split_once(':') {
            None if text == "path-start" => Component::PathStart,
            None if text == "path" => Component::Path,
            None if text == "query-string" => Component::QueryString,
            None if text == "cmcd" => Component::Cmcd,
            Some(("query", name)) => Component::Query(name.to_owned()),
            Some(("cookie", name)) => Component::Cookie(name.to_owned()),
            Some(("header", name)) => Component::Header(name.to_owned()),
            _ => return Err(()),
        })
    }
}

/// Whether a text can name a query argument, a cookie or a header in the config: what needs no escape anywhere.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_written_and_read_back() {
        for component in [
            Component::PathStart,
            Component::Path,
            Component::QueryString,
            Component::Cmcd,
            Component::Word("A-Za-z0-9:_-".into(), Box::new(Component::Header("cookie".into()))),
            Component::Query("token".into()),
            Component::Cookie("CloudFront-Signature".into()),
            Component::Header("authorization".into()),
        ] {
            assert_eq!(component.to_string().parse(), Ok(component));
        }
        assert_eq!("body".parse::<Component>(), Err(()));
        assert_eq!("body:x".parse::<Component>(), Err(()));
    }
}
