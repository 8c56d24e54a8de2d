//! Packs credentials into rules: as many as possible into one regular expression.
//!
//! Exactness comes first. A credential has passed its scheme's grammar, is escaped here all the same, and is
//! closed by what ends it in the request, or is a fragment of a signature that no other token has, so that no rule
//! matches a session that is not meant.

use aws_sdk_wafv2::primitives::Blob;
use aws_sdk_wafv2::types::{
    BlockAction, ByteMatchStatement, CookieMatchPattern, Cookies, CountAction, FieldToMatch, MapMatchScope,
    OrStatement, OversizeHandling, PositionalConstraint, QueryString, RegexMatchStatement, Rule, RuleAction,
    SingleHeader, SingleQueryArgument, Statement, TextTransformation, TextTransformationType, UriPath,
    VisibilityConfig,
};
use sha2::{Digest, Sha256};

use crate::config::Mode;
use crate::session::component::{Component, Credential};
use crate::session::token::FRAGMENT_CHARACTERS;

/// Characters of a regular expression, at most. Source: AWS WAF quotas (the API model says 512, the quota is 200).
pub const MAX_REGEX_CHARACTERS: usize = 200;
/// Bytes of a string match, at most. Source: AWS WAF quotas.
pub const MAX_STRING_BYTES: usize = 200;
/// WCUs of a RegexMatchStatement. Source: AWS WAF Developer Guide, "Regex match rule statement".
pub const REGEX_WCU: u64 = 3;
/// WCUs of a ByteMatchStatement that starts with its string. Source: "String match rule statement".
pub const STARTS_WITH_WCU: u64 = 2;

/// What names of our rules begin with; no other rule is ever touched.
pub const RULE_PREFIX: &str = "streamwarden-";

/// Characters of the name of a query argument, and of a cookie, that WAF can look at alone.
/// Source: AWS WAF API, `SingleQueryArgument`, `CookieMatchPattern`.
const MAX_ARGUMENT_NAME: usize = 30;
const MAX_COOKIE_NAME: usize = 60;

/// One credential of a session that is to be blocked or counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub session_id: String,
    pub credential: Credential,
}

/// How credentials are put into an expression, and what it is applied to. Those of one form share rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Form {
    component: Component,
    open: String,
    close: String,
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
    fn of(credential: &Credential) -> Form {
        let long = credential.text.len() >= FRAGMENT_CHARACTERS;
        let (component, open, close) = match &credential.component {
            Component::PathStart => (&Component::PathStart, "^/(?:".to_owned(), r")\.".to_owned()),
            // Players send it escaped as a rule; whether WAF unescapes an argument is not documented.
            Component::Cmcd => {
                let open = "(?:^|,|%2[Cc])sid(?:=|%3[Dd])(?:\"|%22)(?:";
                (&Component::Cmcd, open.to_owned(), ")(?:\"|%22)".to_owned())
            }
            // The last part of a token: no dot behind it.
            Component::Token(inner) => {
                let around = Around::of(inner);
                let rest = if long { "[^./%]*" } else { "[A-Za-z0-9_-]=*" };
                (inner.as_ref(), format!(r"{}(?:\.|%2[Ee])(?:", around.anywhere()), format!("){rest}{}", around.end))
            }
            Component::Whole(inner) => {
                let around = Around::of(inner);
                (inner.as_ref(), format!("{}(?:", around.start), format!("){}", around.end))
            }
            Component::Word(class, inner) => {
                let Around { start, end, any, separator } = Around::of(inner);
                let open = format!("{start}(?:{any}[^{separator}{class}])?(?:");
                (inner.as_ref(), open, format!(")(?:[^{separator}{class}]{any})?{end}"))
            }
            // A piece that is long enough to be found nowhere else.
            inner if long => (inner, format!("{}(?:", Around::of(inner).anywhere()), ")".to_owned()),
            // All of a short signature but its last character.
            inner => {
                let around = Around::of(inner);
                (inner, format!("{}(?:", around.start), format!(")[A-Za-z0-9_~-]=*{}", around.end))
            }
        };
        Form { component: component.clone(), open, close }
    }

    /// Statements that apply one pattern, WCUs of each.
    fn statements(&self, one: impl Fn(FieldToMatch) -> Statement) -> (Statement, u64) {
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

/// A rule, before it has a priority.
#[derive(Clone, Debug)]
pub struct PackedRule {
    pub name: String,
    /// `enforce` blocks, `count` counts.
    pub mode: Mode,
    /// Session ids, in the order of their credentials.
    pub sessions: Vec<String>,
    /// Where in a request it matches.
    pub component: String,
    pub wcu: u64,
    /// What it matches, as people read it.
    pub pattern: String,
    statement: Statement,
}

/// What was packed.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    pub rules: Vec<PackedRule>,
    pub wcu: u64,
    /// Sessions for which there was no room, or whose credential no rule can hold.
    pub left_out: Vec<String>,
}

/// Packs targets into rules of at most `room` WCUs.
///
/// A pure function of the set of targets: the order in which they come does not matter, and equal sets give
/// equal rules. Targets of equal credentials are packed once.
pub fn pack(targets: &[Target], mode: Mode, room: u64) -> Packed {
    let mut sorted: Vec<(Form, &Target)> =
        targets.iter().map(|target| (Form::of(&target.credential), target)).collect();
    sorted
        .sort_by(|(a, x), (b, y)| (a, &x.credential.text, &x.session_id).cmp(&(b, &y.credential.text, &y.session_id)));
    let mut packed = Packed::default();
    let mut left_out = std::collections::BTreeSet::new();
    for (form, group) in groups(&sorted) {
        let rule = rule_for(form, &group, mode);
        match rule {
            Some(rule) if packed.wcu + rule.wcu <= room => {
                packed.wcu += rule.wcu;
                packed.rules.push(rule);
            }
            _ => left_out.extend(group.iter().map(|target| target.session_id.clone())),
        }
    }
    packed.left_out = left_out.into_iter().collect();
    packed
}

/// Cuts sorted targets into runs of one form that fit one expression each.
fn groups<'a>(sorted: &[(Form, &'a Target)]) -> Vec<(Form, Vec<&'a Target>)> {
    let mut groups: Vec<(Form, Vec<&Target>)> = Vec::new();
    let mut used = 0;
    for (form, target) in sorted {
        let limit = MAX_REGEX_CHARACTERS.saturating_sub(form.open.len() + form.close.len());
        let length = escape(&target.credential.text).chars().count();
        if let Some((_, group)) = groups.last_mut().filter(|(of, _)| of == form) {
            let same = group.last().is_some_and(|last| last.credential.text == target.credential.text);
            if same || used + 1 + length <= limit {
                used += if same { 0 } else { 1 + length };
                group.push(target);
                continue;
            }
        }
        groups.push((form.clone(), vec![target]));
        used = length;
    }
    groups
}

fn rule_for(form: Form, group: &[&Target], mode: Mode) -> Option<PackedRule> {
    let mut credentials: Vec<&str> = group.iter().map(|target| target.credential.text.as_str()).collect();
    credentials.dedup();
    let (statement, pattern, wcu) = match (credentials.as_slice(), &group[0].credential.component) {
        // One alone is cheaper without an expression.
        ([one], Component::PathStart) => {
            let start = format!("/{one}.");
            if start.len() > MAX_STRING_BYTES {
                return None;
            }
            (starts_with(&start), start, STARTS_WITH_WCU)
        }
        (several, _) => {
            let alternatives: Vec<String> = several.iter().map(|credential| escape(credential)).collect();
            let pattern = format!("{}{}{}", form.open, alternatives.join("|"), form.close);
            if pattern.chars().count() > MAX_REGEX_CHARACTERS {
                return None;
            }
            let (statement, times) = form.statements(|field| matches(&pattern, field));
            (statement, pattern, REGEX_WCU * times)
        }
    };
    // What a name is made of decides which rules stay as they are: the same for the same content, for ever.
    let component = match form.component {
        Component::PathStart => String::new(),
        other => format!("{other}\n"),
    };
    let digest = Sha256::digest(format!("{}\n{component}{pattern}", mode.name()));
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut sessions: Vec<String> = group.iter().map(|target| target.session_id.clone()).collect();
    sessions.dedup();
    Some(PackedRule {
        name: format!("{RULE_PREFIX}{}-{digest}", mode.name()),
        mode,
        sessions,
        component: group[0].credential.component.to_string(),
        wcu,
        pattern,
        statement,
    })
}

/// Escapes what means something in a regular expression; letters, digits, `_` and `-` mean nothing outside a
/// character class.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if !(c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// What WAF has to look at; [`Around`] finds the value in it where WAF cannot look at its name alone.
fn field_to_match(component: &Component) -> FieldToMatch {
    match component {
        Component::Query(name) if name.len() <= MAX_ARGUMENT_NAME => query_argument(name),
        Component::Query(_) => FieldToMatch::builder().query_string(QueryString::builder().build()).build(),
        Component::Cookie(name) if name.len() <= MAX_COOKIE_NAME => cookie(name),
        Component::Cookie(_) => header("cookie"),
        Component::Header(name) => header(name),
        _ => uri_path(),
    }
}

fn uri_path() -> FieldToMatch {
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

/// As it came: WAF inspects the path untransformed, and a transformation costs 10 WCUs.
fn no_transformation() -> TextTransformation {
    TextTransformation::builder()
        .priority(0)
        .r#type(TextTransformationType::None)
        .build()
        .expect("both fields are given")
}

fn starts_with(text: &str) -> Statement {
    let statement = ByteMatchStatement::builder()
        .search_string(Blob::new(text))
        .field_to_match(uri_path())
        .text_transformations(no_transformation())
        .positional_constraint(PositionalConstraint::StartsWith)
        .build()
        .expect("all fields are given");
    Statement::builder().byte_match_statement(statement).build()
}

fn matches(pattern: &str, field: FieldToMatch) -> Statement {
    let statement = RegexMatchStatement::builder()
        .regex_string(pattern)
        .field_to_match(field)
        .text_transformations(no_transformation())
        .build()
        .expect("all fields are given");
    Statement::builder().regex_match_statement(statement).build()
}

impl PackedRule {
    /// The rule as WAF takes it.
    pub fn at_priority(&self, priority: i32) -> Rule {
        let action = match self.mode {
            Mode::Enforce => RuleAction::builder().block(BlockAction::builder().build()).build(),
            _ => RuleAction::builder().count(CountAction::builder().build()).build(),
        };
        // One shared metric name, and metrics off: a metric for each of thousands of rules is dear.
        let visibility = VisibilityConfig::builder()
            .sampled_requests_enabled(false)
            .cloud_watch_metrics_enabled(false)
            .metric_name("streamwarden")
            .build()
            .expect("all fields are given");
        Rule::builder()
            .name(&self.name)
            .priority(priority)
            .statement(self.statement.clone())
            .action(action)
            .visibility_config(visibility)
            .build()
            .expect("all fields are given")
    }
}

/// Whether a rule is one of ours.
pub fn is_ours(rule: &Rule) -> bool {
    rule.name().starts_with(RULE_PREFIX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    fn target(id: &str) -> Target {
        with(Component::PathStart, id)
    }

    fn with(component: Component, text: &str) -> Target {
        Target { session_id: text.into(), credential: Credential { component, text: text.into() } }
    }

    fn word(text: &str) -> Target {
        with(Component::Word("0-9A-Z_a-z-".into(), Box::new(Component::Query("u".into()))), text)
    }

    /// WAF's documented matching of the two statements that are made here, written anew.
    fn matches_path(rule: &PackedRule, path: &str) -> bool {
        let rule = rule.at_priority(0);
        let statement = rule.statement().unwrap();
        if let Some(bytes) = statement.byte_match_statement() {
            assert_eq!(bytes.positional_constraint(), &PositionalConstraint::StartsWith);
            return path.as_bytes().starts_with(bytes.search_string().as_ref());
        }
        let regex = statement.regex_match_statement().unwrap();
        Regex::new(regex.regex_string()).unwrap().is_match(path)
    }

    fn path_of(id: &str) -> String {
        format!("/{id}.eyJh.eyJz.c2ln/live/a.m3u8")
    }

    #[test]
    fn twelve_characters_pack_fourteen_to_a_rule() {
        let targets: Vec<Target> = (0..23_324).map(|n| target(&format!("id{n:010}"))).collect();
        let packed = pack(&targets, Mode::Enforce, 5_000);
        assert_eq!((packed.rules.len(), packed.wcu, packed.left_out.len()), (1_666, 4_998, 0));
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        let targets: Vec<Target> = (0..100).map(|n| target(&format!("id{n:010}"))).collect();
        let packed = pack(&targets, Mode::Enforce, 10);
        assert_eq!((packed.rules.len(), packed.wcu), (3, 9));
        assert_eq!(packed.rules.iter().map(|rule| rule.sessions.len()).sum::<usize>() + packed.left_out.len(), 100);
        let too_long = pack(&[target(&"x".repeat(199))], Mode::Enforce, 10);
        assert_eq!(too_long.left_out.len(), 1);
    }

    #[test]
    fn an_id_that_begins_another_does_not_match_it() {
        let packed = pack(&[target("abcdef"), target("zzzzzz")], Mode::Enforce, 10);
        assert!(matches_path(&packed.rules[0], &path_of("abcdef")));
        assert!(!matches_path(&packed.rules[0], &path_of("abcdefg")));
        assert!(!matches_path(&packed.rules[0], &format!("/x{}", path_of("abcdef"))));
        let single = pack(&[target("abcdef")], Mode::Enforce, 10);
        assert!(matches_path(&single.rules[0], &path_of("abcdef")));
        assert!(!matches_path(&single.rules[0], &path_of("abcdefg")));
    }

    fn pattern_of(target: Target) -> Regex {
        let packed = pack(&[target], Mode::Enforce, 10);
        Regex::new(&packed.rules[0].pattern).unwrap()
    }

    #[test]
    fn words_are_closed_on_both_sides() {
        let pattern = pattern_of(word("abcdef"));
        for text in ["abcdef", "u=abcdef", "u=abcdef&x=1", "x/abcdef/y"] {
            assert!(pattern.is_match(text), "{text}");
        }
        for text in ["abcdefg", "u=xabcdef", "u=abcdef-1", "_abcdef"] {
            assert!(!pattern.is_match(text), "{text}");
        }
    }

    #[test]
    fn a_short_signature_is_closed_behind_its_last_character() {
        let pattern = pattern_of(with(token(Component::Query("token".into())), "abcdefghijk"));
        for text in ["h.p.abcdefghijkX", "h%2Ep%2Eabcdefghijk_", "h.p.abcdefghijk0="] {
            assert!(pattern.is_match(text), "{text}");
        }
        for text in ["h.p.abcdefghijk", "h.p.abcdefghijkXY", "h.p.Xabcdefghijk0", "h.abcdefghijk0.s"] {
            assert!(!pattern.is_match(text), "{text}");
        }
        let pattern = pattern_of(with(Component::Cookie("CloudFront-Signature".into()), "abcdefghijk"));
        assert!(
            pattern.is_match("abcdefghijk~")
                && !pattern.is_match("abcdefghijkXY")
                && !pattern.is_match("xabcdefghijk1")
        );
    }

    fn token(component: Component) -> Component {
        Component::Token(Box::new(component))
    }

    /// The header of tokens is the same for all viewers: a signature that looks like it must not match them.
    #[test]
    fn only_the_last_part_of_a_token_is_looked_at() {
        let header = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";
        let value = pattern_of(with(token(Component::Query("token".into())), &header[..22]));
        assert!(value.is_match(&format!("{header}.e30.{header}")));
        assert!(!value.is_match(&format!("{header}.{header}.c2lnbmF0dXJlc2lnbmF0dXJlc2ln")));
        let segment = pattern_of(with(token(Component::Segment(2)), &header[..22]));
        assert!(segment.is_match(&format!("/play/{header}.e30.{header}/live/a.b.ts")));
        assert!(!segment.is_match(&format!("/play/{header}.{header}.c2lnbmF0dXJl/live/a.b.ts")));
        assert!(!segment.is_match(&format!("/live/x.y/a.{header}")));
    }

    #[test]
    fn an_id_in_the_path_is_looked_for_in_its_segment_only() {
        let whole = |number| pattern_of(with(Component::Whole(Box::new(Component::Segment(number))), "100123"));
        assert!(whole(2).is_match("/s/100123/live/a.ts") && whole(1).is_match("/100123"));
        for path in ["/s/999999/live/seg_100123.ts", "/s/1001234/a.ts", "/100123/s/a.ts", "/s/x/100123/a.ts"] {
            assert!(!whole(2).is_match(path), "{path}");
        }
        let component = Component::Word("0-9A-Z_a-z-".into(), Box::new(Component::Segment(2)));
        let word = pattern_of(with(component, "100123"));
        for path in ["/s/v=100123/a.ts", "/s/100123.x/a.ts", "/s/a.100123.b"] {
            assert!(word.is_match(path), "{path}");
        }
        for path in ["/s/v=1001234/a.ts", "/s/x/100123.ts", "/100123.x/s/a.ts", "/s/a-100123/b"] {
            assert!(!word.is_match(path), "{path}");
        }
    }

    #[test]
    fn cmcd_as_players_send_it_and_decoded() {
        let pattern = pattern_of(with(Component::Cmcd, "6e2fb550-c457"));
        for text in ["sid=\"6e2fb550-c457\"", "bl=1,sid=\"6e2fb550-c457\",st=v", "bl%3D1%2Csid%3D%226e2fb550-c457%22"] {
            assert!(pattern.is_match(text), "{text}");
        }
        for text in ["sid=\"6e2fb550-c4570\"", "com.x-sid=\"6e2fb550-c457\"", "cid=\"6e2fb550-c457\""] {
            assert!(!pattern.is_match(text), "{text}");
        }
    }

    #[test]
    fn credentials_share_a_rule_with_their_like_only() {
        let fragment = |n: usize| format!("{n:022}");
        let mut targets: Vec<Target> = (0..9).map(|n| with(Component::Query("token".into()), &fragment(n))).collect();
        targets.push(with(Component::Cookie("token".into()), &fragment(20)));
        targets.push(with(Component::Cmcd, "6e2fb550-c457"));
        targets.push(target("abcdef"));
        targets.push(word("uvwxyz"));
        let packed = pack(&targets, Mode::Enforce, 100);
        let shape: Vec<(&str, usize, u64)> =
            packed.rules.iter().map(|rule| (rule.component.as_str(), rule.sessions.len(), rule.wcu)).collect();
        assert_eq!(
            shape,
            [
                ("path-start", 1, STARTS_WITH_WCU),
                ("query:token", 8, 3),
                ("query:token", 1, 3),
                ("[0-9A-Z_a-z-] in query:u", 1, 3),
                ("cookie:token", 1, 3),
                ("cmcd", 1, 6),
            ]
        );
    }

    #[test]
    fn a_session_with_many_credentials_is_one_session() {
        let mut targets: Vec<Target> =
            (0..20).map(|n| with(Component::Query("token".into()), &format!("{n:022}"))).collect();
        targets.iter_mut().for_each(|target| target.session_id = "one".into());
        let packed = pack(&targets, Mode::Enforce, 6);
        assert!(packed.rules.iter().all(|rule| rule.sessions == ["one"]));
        assert_eq!(packed.left_out, ["one"], "not all of its credentials are blocked");
    }

    #[test]
    fn names_that_waf_cannot_look_at_alone() {
        let long = "a".repeat(64);
        let field = |component| field_to_match(&component);
        assert!(field(Component::Query("a".repeat(30))).single_query_argument().is_some());
        assert!(field(Component::Query(long.clone())).query_string().is_some());
        assert!(field(Component::Cookie("a".repeat(60))).cookies().is_some());
        assert_eq!(field(Component::Cookie(long.clone())).single_header().unwrap().name(), "cookie");

        // The value is found all the same, wherever it stands, and in no other argument or cookie.
        let id = "Ab3dEf6hIj9kLm2nOp5qRs";
        let class = || "0-9A-Z_a-z-".to_owned();
        let query = || Box::new(Component::Query(long.clone()));
        let cookie = || Box::new(Component::Cookie(long.clone()));
        for (component, value) in [
            (Component::Whole(query()), id.to_owned()),
            (Component::Word(class(), query()), format!("x.{id}.y")),
            (token(*query()), format!("h.p.{id}restofit")),
            (*query(), format!("{id}restofit")),
        ] {
            let pattern = pattern_of(with(component.clone(), id));
            for sent in [format!("{long}={value}"), format!("a=1&{long}={value}&b=2")] {
                assert!(pattern.is_match(&sent), "{component}: {pattern} {sent}");
            }
            assert!(!pattern.is_match(&format!("{long}=x&other={value}")), "{component}");
        }
        let pattern = pattern_of(with(Component::Whole(cookie()), id));
        assert!(pattern.is_match(&format!("a=1; {long}={id}; b=2")) && !pattern.is_match(&format!("a={id}; {long}=x")));
    }

    proptest! {
        /// Every blocked session is matched and no other one, whatever the ids look like.
        #[test]
        fn exact(ids in proptest::collection::btree_set("[A-Ca-c0-1_~!$*+,;=:@-]{6,10}", 1..60), split in 0usize..60) {
            let ids: Vec<String> = ids.into_iter().collect();
            let split = split.min(ids.len());
            let targets: Vec<Target> = ids[..split].iter().map(|id| target(id)).collect();
            let packed = pack(&targets, Mode::Enforce, 5_000);
            prop_assert!(packed.left_out.is_empty());
            for (index, id) in ids.iter().enumerate() {
                let matched = packed.rules.iter().any(|rule| matches_path(rule, &path_of(id)));
                prop_assert_eq!(matched, index < split, "{}", id);
            }
        }

        /// The same for ids in a segment, an argument and CMCD, as they are and escaped.
        #[test]
        fn exact_elsewhere(ids in proptest::collection::btree_set("[A-Ca-c0-1_~!$*+,;=:@-]{6,10}", 1..24), split in 0usize..24) {
            let ids: Vec<String> = ids.into_iter().collect();
            let split = split.min(ids.len());
            let class = crate::session::Grammar::new(6, 10, "A-Za-z0-9_~!$*+,;=:@-").unwrap().class();
            let segment = || Box::new(Component::Segment(2));
            type Sent = fn(&str) -> String;
            let places: [(Component, Sent); 5] = [
                (Component::Whole(segment()), |id| format!("/s/{id}/live/a.ts")),
                (Component::Word(class.clone(), segment()), |id| format!("/s/u.{id}.x/live/a.ts")),
                (Component::Whole(Box::new(Component::Query("u".into()))), str::to_owned),
                (Component::Word(class, Box::new(Component::Query("u".into()))), |id| format!("({id})")),
                (Component::Cmcd, |id| format!("bl%3D1%2Csid%3D%22{id}%22%2Cst%3Dv")),
            ];
            for (component, sent) in places {
                let targets: Vec<Target> = ids[..split].iter().map(|id| with(component.clone(), id)).collect();
                let packed = pack(&targets, Mode::Enforce, 5_000);
                prop_assert!(packed.left_out.is_empty());
                let patterns: Vec<Regex> = packed.rules.iter().map(|rule| Regex::new(&rule.pattern).unwrap()).collect();
                for (index, id) in ids.iter().enumerate() {
                    let matched = patterns.iter().any(|pattern| pattern.is_match(&sent(id)));
                    prop_assert_eq!(matched, index < split, "{} in {}", id, component);
                }
            }
        }

        /// Within the documented limits, independent of order, and named by content.
        #[test]
        fn lawful_and_stable(ids in proptest::collection::vec("[A-Za-z0-9_-]{6,200}", 0..80), room in 0u64..60) {
            let targets: Vec<Target> = ids.iter().map(|id| target(id)).collect();
            let packed = pack(&targets, Mode::Count, room);
            prop_assert!(packed.wcu <= room);
            for rule in &packed.rules {
                prop_assert!(rule.pattern.chars().count() <= MAX_REGEX_CHARACTERS);
                prop_assert!(rule.name.len() <= 128);
            }
            let packed_sessions: usize = packed.rules.iter().map(|rule| rule.sessions.len()).sum();
            let distinct: std::collections::BTreeSet<&str> = targets.iter().map(|t| t.session_id.as_str()).collect();
            prop_assert_eq!(packed_sessions + packed.left_out.len(), distinct.len());
            let reversed: Vec<Target> = targets.into_iter().rev().collect();
            let names = |packed: &Packed| packed.rules.iter().map(|rule| rule.name.clone()).collect::<Vec<_>>();
            prop_assert_eq!(names(&packed), names(&pack(&reversed, Mode::Count, room)));
        }
    }
}
