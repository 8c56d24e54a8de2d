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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// `path-start`: the path begins with `/`, the credential and a dot.
    PathStart,
    /// `segment:N`: the segment of the path with this number, from 1.
    Segment(usize),
    /// `query:NAME`: the value of an argument.
    Query(String),
    /// `cookie:NAME`: the value of a cookie.
    Cookie(String),
    /// `header:NAME`
    Header(String),
    /// `cmcd`: the key sid of CMCD, in the query or in a header.
    Cmcd,
    /// `token in COMPONENT`: the beginning of the last part of a token there.
    Token(Box<Component>),
    /// `all of COMPONENT`
    Whole(Box<Component>),
    /// `word N of [CLASS] in COMPONENT`: the credential as the word with this number there, from 1; words are of characters of the class.
    Word(usize, String, Box<Component>),
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Component::PathStart => f.write_str("path-start"),
            Component::Segment(number) => write!(f, "segment:{number}"),
            Component::Query(name) => write!(f, "query:{name}"),
            Component::Cookie(name) => write!(f, "cookie:{name}"),
            Component::Header(name) => write!(f, "header:{name}"),
            Component::Cmcd => f.write_str("cmcd"),
            Component::Token(component) => write!(f, "token in {component}"),
            Component::Whole(component) => write!(f, "all of {component}"),
            Component::Word(number, class, component) => write!(f, "word {number} of [{class}] in {component}"),
        }
    }
}

impl FromStr for Component {
    type Err = ();

    fn from_str(text: &str) -> Result<Component, ()> {
        if let Some((number, rest)) = text.strip_prefix("word ").and_then(|text| text.split_once(" of [")) {
            let (class, component) = rest.split_once("] in ").ok_or(())?;
            let number = number.parse().ok().filter(|number| *number > 0).ok_or(())?;
            return Ok(Component::Word(number, class.to_owned(), Box::new(component.parse()?)));
        }
        if let Some(component) = text.strip_prefix("token in ") {
            return Ok(Component::Token(Box::new(component.parse()?)));
        }
        if let Some(component) = text.strip_prefix("all of ") {
            return Ok(Component::Whole(Box::new(component.parse()?)));
        }
        Ok(match text.split_once(':') {
            Some(("segment", number)) => Component::Segment(number.parse().map_err(|_| ())?),
            None if text == "path-start" => Component::PathStart,
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
            Component::Segment(2),
            Component::Cmcd,
            Component::Token(Box::new(Component::Query("token".into()))),
            Component::Whole(Box::new(Component::Segment(1))),
            Component::Word(2, "A-Za-z0-9:_-".into(), Box::new(Component::Header("cookie".into()))),
            Component::Query("token".into()),
            Component::Cookie("CloudFront-Signature".into()),
            Component::Header("authorization".into()),
        ] {
            assert_eq!(component.to_string().parse(), Ok(component));
        }
        assert_eq!("body".parse::<Component>(), Err(()));
        assert_eq!("word 0 of [a-z] in segment:1".parse::<Component>(), Err(()));
        assert_eq!("body:x".parse::<Component>(), Err(()));
    }
}
