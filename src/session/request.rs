//! What schemes look at.

use std::borrow::Cow;

use crate::logs::decode;

/// A request as the client sent it: the fields of the log, decoded once.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    pub path: &'a str,
    pub query: Option<Cow<'a, str>>,
    pub cookie: Option<Cow<'a, str>>,
    /// There were more cookies than the log shows.
    pub cookie_cut: bool,
    /// As they are logged: `name:value` items, each ended by `%0A`.
    pub headers: Option<&'a str>,
    /// There were more headers than the log shows.
    pub headers_cut: bool,
    pub cmcd_session: Option<Cow<'a, str>>,
    pub user_agent: Option<Cow<'a, str>>,
    pub referer: Option<Cow<'a, str>>,
    pub host: Option<Cow<'a, str>>,
}

impl Request<'_> {
    /// The value of a query argument, as it was sent.
    ///
    /// None where it occurs with several values, here and in the other methods: the edge looked at one of them, and
    /// taking another would let anybody speak in the name of a session that is not theirs.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        let arguments = self.query.as_deref()?.split('&');
        one(arguments.filter_map(|argument| {
            let (sent, value) = argument.split_once('=')?;
            (decode(sent) == name).then_some(value)
        }))
    }

    /// The value of a cookie, without quotes around it. Names are case-sensitive.
    pub fn cookie_value(&self, name: &str) -> Option<&str> {
        let cookies = self.cookie.as_deref()?.split(';');
        one(cookies.filter_map(|cookie| {
            let (sent, value) = cookie.split_once('=')?;
            (sent.trim() == name).then(|| unquoted(value.trim()))
        }))
    }

    /// The value of a header, whatever the case of its name. What is not ended was cut off and is none.
    pub fn header_value(&self, name: &str) -> Option<Cow<'_, str>> {
        let headers = self.headers?.split_inclusive("%0A").filter_map(|item| item.strip_suffix("%0A"));
        one(headers.filter_map(|header| {
            let (sent, value) = header.split_once(':')?;
            decode(sent).eq_ignore_ascii_case(name).then_some(value)
        }))
        .map(|value| match decode(value) {
            Cow::Borrowed(value) => Cow::Borrowed(value.trim()),
            Cow::Owned(value) => Cow::Owned(value.trim().to_owned()),
        })
    }
}

/// A value without the quotes around it.
pub fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// The value, if all are the same.
fn one<'a>(mut values: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let first = values.next()?;
    values.all(|other| other == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_names() {
        let request = Request {
            query: Some("a=1&token=x%2Ey&to%6Ben=x%2Ey&b".into()),
            cookie: Some("a=1; playback=\"abc\";b=; Playback=other".into()),
            headers: Some("Host:media.example.com%0AStream_Key:%20abc%250A%0ACut-Off:ab"),
            ..Request::default()
        };
        assert_eq!(request.query_value("token"), Some("x%2Ey"));
        assert_eq!(request.query_value("Token"), None);
        assert_eq!(request.query_value("b"), None);
        assert_eq!(request.cookie_value("playback"), Some("abc"));
        assert_eq!(request.header_value("stream_key").as_deref(), Some("abc%0A"));
        assert_eq!(request.header_value("cut-off"), None);
        assert_eq!(Request::default().header_value("host"), None);
    }

    #[test]
    fn a_name_with_several_values_names_nobody() {
        let request = Request {
            query: Some("token=mine&token=yours".into()),
            cookie: Some("playback=mine; playback=yours".into()),
            headers: Some("k:mine%0AK:yours%0A"),
            ..Request::default()
        };
        assert_eq!(request.query_value("token"), None);
        assert_eq!(request.cookie_value("playback"), None);
        assert_eq!(request.header_value("k"), None);
    }
}
