//! Where in a request a credential is looked for, and what stands around it there.

use aws_sdk_wafv2::types::{
    CookieMatchPattern, Cookies, FieldToMatch, MapMatchScope, OrStatement, OversizeHandling, QueryString, SingleHeader,
    SingleQueryArgument, Statement, UriPath,
};

use super::alternation::escape;
use crate::session::component::{Component, Credential};
use crate::session::token::is_fragment;

/// Characters of the name of a query argument, and of a cookie, that WAF can look at alone.
/// Source: AWS WAF API, `SingleQueryArgument`, `CookieMatchPattern`.
const MAX_ARGUMENT_NAME: usize = 30;
const MAX_COOKIE_NAME: usize = 60;

/// How credentials are put into an expression, and what it is applied to. Those of one form share rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Form {
    pub component: Component,
    /// Before the credential in an expression, and behind it.
    pub open: String,
    pub close: String,
}

/// What stands around the text that a credential is looked for in, within what WAF is given to look at.
struct Around {
    start: String,
    end: &'static str,
    /// Any of the text: what does not end it.
    any: &'static str,
    /// What ends it, if anything does.
    separator: &'static str,
}

impl Around {
    fn of(component: &Component) -> Around {
        let (start, end, any, separator) = match component {
            Component::Segment(1) => ("^/".to_owned(), "(?:/|$)", "[^/]*", "/"),
            Component::Segment(number) => (format!("^(?:/[^/]*){{{}}}/", number - 1), "(?:/|$)", "[^/]*", "/"),
            // WAF cannot look at these alone: they are looked for in the whole query, and in all cookies.
            Component::Query(name) if name.len() > MAX_ARGUMENT_NAME => {
                (format!("(?:^|&){}=", escape(name)), "(?:&|$)", "[^&]*", "&")
            }
            Component::Cookie(name) if name.len() > MAX_COOKIE_NAME => {
                (format!("(?:^|; ?){}=", escape(name)), "(?:;|$)", "[^;]*", ";")
            }
            _ => ("^".to_owned(), "$", ".*", ""),
        };
        Around { start, end, any, separator }
    }

    /// The beginning of an expression that may begin anywhere in the text.
    fn anywhere(&self) -> String {
        if self.separator.is_empty() { String::new() } else { format!("{}{}", self.start, self.any) }
    }
}

impl Form {
    pub fn of(credential: &Credential) -> Form {
        let long = is_fragment(&credential.text);
        let (component, open, close) = match &credential.component {
            Component::PathStart => (&Component::PathStart, "^/".to_owned(), r"\.".to_owned()),
            // Players send it escaped as a rule; whether WAF unescapes an argument is not documented.
            Component::Cmcd => {
                let open = "(?:^|,|%2[Cc])sid(?:=|%3[Dd])(?:\"|%22)";
                (&Component::Cmcd, open.to_owned(), "(?:\"|%22)".to_owned())
            }
            // The last part of a token: no dot behind it.
            Component::Token(inner) => {
                let around = Around::of(inner);
                let rest = if long { "[^./%]*" } else { "[A-Za-z0-9_-]=*" };
                (inner.as_ref(), format!(r"{}(?:\.|%2[Ee])", around.anywhere()), format!("{rest}{}", around.end))
            }
            Component::Whole(inner) => {
                let around = Around::of(inner);
                (inner.as_ref(), around.start, around.end.to_owned())
            }
            Component::Word(number, class, inner) => {
                let Around { start, end, any, separator } = Around::of(inner);
                let gap = format!("[^{separator}{class}]");
                // In another place the same text is something else: an expiry, another customer's number.
                let before = match number {
                    1 => String::new(),
                    number => format!("(?:[{class}]+{gap}+){{{}}}", number - 1),
                };
                (inner.as_ref(), format!("{start}{gap}*{before}"), format!("(?:{gap}{any})?{end}"))
            }
            // A piece that is long enough to be found nowhere else.
            inner if long => (inner, Around::of(inner).anywhere(), String::new()),
            // All of a short signature but its last character.
            inner => {
                let around = Around::of(inner);
                (inner, around.start, format!("[A-Za-z0-9_~-]=*{}", around.end))
            }
        };
        Form { component: component.clone(), open, close }
    }

    /// Statements that apply one pattern, WCUs of each.
    pub fn statements(&self, one: impl Fn(FieldToMatch) -> Statement) -> (Statement, u64) {
        match &self.component {
            Component::Cmcd => {
                let either = OrStatement::builder()
                    .statements(one(query_argument("cmcd")))
                    .statements(one(header("cmcd-session")))
                    .build()
                    .expect("two statements are given");
                (Statement::builder().or_statement(either).build(), 2)
            }
            component => (one(field_to_match(component)), 1),
        }
    }
}

/// What WAF has to look at; [`Around`] finds the value in it where WAF cannot look at its name alone.
pub fn field_to_match(component: &Component) -> FieldToMatch {
    match component {
        Component::Query(name) if name.len() <= MAX_ARGUMENT_NAME => query_argument(name),
        Component::Query(_) => FieldToMatch::builder().query_string(QueryString::builder().build()).build(),
        Component::Cookie(name) if name.len() <= MAX_COOKIE_NAME => cookie(name),
        Component::Cookie(_) => header("cookie"),
        Component::Header(name) => header(name),
        _ => uri_path(),
    }
}

pub fn uri_path() -> FieldToMatch {
    FieldToMatch::builder().uri_path(UriPath::builder().build()).build()
}

/// Its name is compared without regard to case.
fn query_argument(name: &str) -> FieldToMatch {
    let argument = SingleQueryArgument::builder().name(name.to_ascii_lowercase()).build().expect("a name is given");
    FieldToMatch::builder().single_query_argument(argument).build()
}

fn header(name: &str) -> FieldToMatch {
    let header = SingleHeader::builder().name(name.to_ascii_lowercase()).build().expect("a name is given");
    FieldToMatch::builder().single_header(header).build()
}

/// WAF looks at the first 8 KB and 200 cookies. Beyond that the request goes on: no viewer is blocked for having many.
fn cookie(name: &str) -> FieldToMatch {
    let cookies = Cookies::builder()
        .match_pattern(CookieMatchPattern::builder().included_cookies(name).build())
        .match_scope(MapMatchScope::Value)
        .oversize_handling(OversizeHandling::Continue)
        .build()
        .expect("all fields are given");
    FieldToMatch::builder().cookies(cookies).build()
}
