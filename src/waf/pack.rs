//! Packs credentials into rules: as many as possible into one regular expression.
//!
//! Exactness comes first. A credential has passed its scheme's grammar, is escaped here all the same, and is
//! closed by what ends it in the request, or is a fragment of a signature that no other token has, so that no rule
//! matches a session that is not meant.

use std::collections::BTreeSet;

use aws_sdk_wafv2::primitives::Blob;
use aws_sdk_wafv2::types::{
    BlockAction, ByteMatchStatement, CountAction, FieldToMatch, PositionalConstraint, RegexMatchStatement, Rule,
    RuleAction, Statement, TextTransformation, TextTransformationType, VisibilityConfig,
};
use sha2::{Digest, Sha256};

use super::alternation::{alternation, escape};
use super::form::{Form, uri_path};
use crate::config::Mode;
use crate::session::component::{Component, Credential};

/// Characters of a regular expression, at most. Source: AWS WAF quotas (the API model says 512, the quota is 200).
pub const MAX_REGEX_CHARACTERS: usize = 200;
/// Bytes of a string match, at most. Source: AWS WAF quotas.
pub const MAX_STRING_BYTES: usize = 200;
/// WCUs of a RegexMatchStatement. Source: AWS WAF Developer Guide, "Regex match rule statement".
pub const REGEX_WCU: u64 = 3;
/// WCUs of a ByteMatchStatement that starts with its string. Source: "String match rule statement".
pub const STARTS_WITH_WCU: u64 = 2;

/// Why a session cannot be blocked.
pub const TOO_LONG: &str =
    "its credential is longer than a rule of WAF can hold (200 characters with what stands around it)";

/// What names of our rules begin with; no other rule is ever touched.
pub const RULE_PREFIX: &str = "streamwarden-";

/// One credential of a session that is to be blocked or counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub session_id: String,
    pub credential: Credential,
}

/// A rule, before it has a priority.
#[derive(Clone, Debug)]
pub struct PackedRule {
    pub name: String,
    /// `enforce` blocks, `count` counts.
    pub mode: Mode,
    /// In order of their ids.
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
    /// Sessions of which no rule can hold a credential: it is too long.
    pub too_long: BTreeSet<String>,
}

/// Whether a rule can hold it: with what stands around it, it may be too long.
pub fn fits(credential: &Credential) -> bool {
    let target = Target { session_id: String::new(), credential: credential.clone() };
    pack(std::iter::once(&target), Mode::Enforce).too_long.is_empty()
}

/// Packs targets into rules.
///
/// A pure function of the set of targets: the order in which they come does not matter, and equal sets give
/// equal rules. Targets of equal credentials are packed once.
pub fn pack<'a>(targets: impl Iterator<Item = &'a Target>, mode: Mode) -> Packed {
    let mut sorted: Vec<(Form, &Target)> = targets.map(|target| (Form::of(&target.credential), target)).collect();
    sorted
        .sort_by(|(a, x), (b, y)| (a, &x.credential.text, &x.session_id).cmp(&(b, &y.credential.text, &y.session_id)));
    let mut packed = Packed::default();
    for of_form in sorted.chunk_by(|(one, _), (other, _)| one == other) {
        let mut rest = of_form;
        while !rest.is_empty() {
            let group = Group::first_of(rest);
            match group.rule(mode) {
                Some(rule) => {
                    packed.wcu += rule.wcu;
                    packed.rules.push(rule);
                }
                None => packed.too_long.extend(group.targets.iter().map(|(_, target)| target.session_id.clone())),
            }
            rest = &rest[group.targets.len()..];
        }
    }
    packed
}

/// Neighbours that share a rule.
struct Group<'a> {
    form: &'a Form,
    targets: &'a [(Form, &'a Target)],
    credentials: Vec<&'a str>,
}

impl<'a> Group<'a> {
    /// As many of the first targets as one expression can hold, at least those of one credential.
    fn first_of(targets: &'a [(Form, &'a Target)]) -> Group<'a> {
        let form = &targets[0].0;
        let limit = MAX_REGEX_CHARACTERS.saturating_sub(form.open.len() + form.close.len());
        let mut credentials: Vec<&str> = Vec::new();
        // Without what they share, `(?:a|b)`: no shorter than the expression.
        let mut apart = "(?:)".len();
        let mut taken = 0;
        for same in targets.chunk_by(|(_, one), (_, other)| one.credential.text == other.credential.text) {
            let text = same[0].1.credential.text.as_str();
            credentials.push(text);
            apart += escape(text).len() + usize::from(credentials.len() > 1);
            if credentials.len() > 1 && apart > limit && alternation(&credentials).len() > limit {
                credentials.pop();
                break;
            }
            taken += same.len();
        }
        Group { form, targets: &targets[..taken], credentials }
    }

    /// None where even one credential is too long.
    fn rule(&self, mode: Mode) -> Option<PackedRule> {
        let (statement, pattern, wcu) = match (self.credentials.as_slice(), &self.form.component) {
            // One alone is cheaper without an expression.
            ([one], Component::PathStart) => {
                let start = format!("/{one}.");
                if start.len() > MAX_STRING_BYTES {
                    return None;
                }
                (starts_with(&start), start, STARTS_WITH_WCU)
            }
            (several, _) => {
                let pattern = format!("{}{}{}", self.form.open, alternation(several), self.form.close);
                if pattern.len() > MAX_REGEX_CHARACTERS {
                    return None;
                }
                let (statement, times) = self.form.statements(|field| matches(&pattern, field));
                (statement, pattern, REGEX_WCU * times)
            }
        };
        // What a name is made of decides which rules stay as they are: the same for the same content, for ever.
        let component = match &self.form.component {
            Component::PathStart => String::new(),
            other => format!("{other}\n"),
        };
        let digest = Sha256::digest(format!("{}\n{component}{pattern}", mode.name()));
        let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let mut sessions: Vec<String> = self.targets.iter().map(|(_, target)| target.session_id.clone()).collect();
        sessions.sort();
        sessions.dedup();
        Some(PackedRule {
            name: format!("{RULE_PREFIX}{}-{digest}", mode.name()),
            mode,
            sessions,
            component: self.targets[0].1.credential.component.to_string(),
            wcu,
            pattern,
            statement,
        })
    }
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

/// The patterns in a rule's statement, as people read them.
pub fn patterns(rule: &Rule) -> Vec<String> {
    // Ours apply one pattern to either of two components.
    let statements = rule.statement().map_or(&[][..], |statement| match statement.or_statement() {
        Some(either) => either.statements(),
        None => std::slice::from_ref(statement),
    });
    let pattern = |statement: &Statement| {
        let bytes = statement.byte_match_statement();
        let bytes = bytes.map(|bytes| String::from_utf8_lossy(bytes.search_string().as_ref()).into_owned());
        bytes.or_else(|| statement.regex_match_statement().map(|regex| regex.regex_string().to_owned()))
    };
    statements.iter().filter_map(pattern).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;
    use crate::waf::form::field_to_match;

    fn target(id: &str) -> Target {
        with(Component::PathStart, id)
    }

    fn with(component: Component, text: &str) -> Target {
        Target { session_id: text.into(), credential: Credential { component, text: text.into() } }
    }

    fn word(text: &str) -> Target {
        with(Component::Word(1, "0-9A-Z_a-z-".into(), Box::new(Component::Query("u".into()))), text)
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
    fn what_is_too_long_for_a_rule_is_said() {
        let targets = [target(&"x".repeat(199)), target("abcdef")];
        let packed = pack(targets.iter(), Mode::Enforce);
        assert_eq!((packed.rules.len(), packed.too_long), (1, BTreeSet::from(["x".repeat(199)])));
    }

    #[test]
    fn an_id_that_begins_another_does_not_match_it() {
        let packed = pack([target("abcdef"), target("zzzzzz")].iter(), Mode::Enforce);
        assert!(matches_path(&packed.rules[0], &path_of("abcdef")));
        assert!(!matches_path(&packed.rules[0], &path_of("abcdefg")));
        assert!(!matches_path(&packed.rules[0], &format!("/x{}", path_of("abcdef"))));
        let single = pack([target("abcdef")].iter(), Mode::Enforce);
        assert!(matches_path(&single.rules[0], &path_of("abcdef")));
        assert!(!matches_path(&single.rules[0], &path_of("abcdefg")));
    }

    /// Characters of base64url that look like chance.
    fn random(seed: usize, length: usize) -> String {
        use base64::Engine;
        let digests: Vec<u8> = (0..3).flat_map(|part| Sha256::digest(format!("{part} {seed}"))).collect();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digests)[..length].to_owned()
    }

    /// The table of docs/rule-group.md is what packing gives.
    #[test]
    fn the_readme_tells_how_many_sessions_fit() {
        let uuid = |n: usize| {
            let hex = crate::session::token::derived_id(&n.to_string());
            [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
        };
        let in_token = |component| token(component);
        let boxed = |component| Box::new(component);
        let name = || "token".to_owned();
        let random_of = |length| move |n: usize| random(n, length);
        let hex = |n: usize| crate::session::token::derived_id(&n.to_string())[..22].to_owned();
        type Row<'a> = (&'a str, Component, Box<dyn Fn(usize) -> String>);
        let rows: [Row; 14] = [
            ("`secure-media-delivery`, id of 8", Component::PathStart, Box::new(random_of(8))),
            ("`secure-media-delivery`, id of 12", Component::PathStart, Box::new(random_of(12))),
            ("`secure-media-delivery`, id of 22", Component::PathStart, Box::new(random_of(22))),
            ("`secure-media-delivery`, id of 36 (UUID)", Component::PathStart, Box::new(uuid)),
            ("`jwt` in the query or a header", in_token(Component::Query(name())), Box::new(random_of(16))),
            ("`jwt` in a cookie", in_token(Component::Cookie(name())), Box::new(random_of(16))),
            ("`jwt` in the second path segment", in_token(Component::Segment(2)), Box::new(random_of(16))),
            ("`signed-url`, `signed-cookie`", Component::Query("Signature".into()), Box::new(random_of(16))),
            ("`stream-key`", Component::Header("stream_key".into()), Box::new(hex)),
            ("`cmcd`, sid of 36 (UUID)", Component::Cmcd, Box::new(uuid)),
            (
                "`custom`, all of an argument, 8",
                Component::Whole(boxed(Component::Query(name()))),
                Box::new(random_of(8)),
            ),
            (
                "`custom`, all of an argument, 12",
                Component::Whole(boxed(Component::Query(name()))),
                Box::new(random_of(12)),
            ),
            (
                "`custom`, all of an argument, 22",
                Component::Whole(boxed(Component::Query(name()))),
                Box::new(random_of(22)),
            ),
            (
                "`custom`, all of an argument, 36 (UUID)",
                Component::Whole(boxed(Component::Query(name()))),
                Box::new(uuid),
            ),
        ];
        let readme = include_str!("../../docs/rule-group.md");
        for (what, component, text) in rows {
            let targets: Vec<Target> = (0..20_000).map(|n| with(component.clone(), &text(n))).collect();
            let packed = pack(targets.iter(), Mode::Enforce);
            let each = 20_000.0 / packed.wcu as f64;
            let line = format!("| {what} | {each:.1} | {} |", (each * 50.0).round() as u64 * 100);
            assert!(readme.contains(&line), "{line}");
        }
    }

    fn pattern_of(target: Target) -> Regex {
        let packed = pack([target].iter(), Mode::Enforce);
        Regex::new(&packed.rules[0].pattern).unwrap()
    }

    #[test]
    fn words_are_closed_on_both_sides() {
        let pattern = pattern_of(word("abcdef"));
        for text in ["abcdef", "=abcdef", "abcdef&x=1", "/abcdef/y"] {
            assert!(pattern.is_match(text), "{text}");
        }
        for text in ["abcdefg", "xabcdef", "=abcdef-1", "_abcdef", "u=abcdef"] {
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
        let word = |number| {
            let component = Component::Word(number, "0-9A-Z_a-z-".into(), Box::new(Component::Segment(2)));
            pattern_of(with(component, "100123"))
        };
        for (number, path) in [
            (1, "/s/100123.x/a.ts"),
            (1, "/s/.100123"),
            (2, "/s/v=100123/a.ts"),
            (2, "/s/a.100123.b"),
            (3, "/s/a.b..100123"),
        ] {
            assert!(word(number).is_match(path), "{path}");
            // In another place it is something else: an expiry, another customer's number.
            assert!((1..4).all(|other| other == number || !word(other).is_match(path)), "{path}");
        }
        for path in ["/s/v=1001234/a.ts", "/s/x/100123.ts", "/100123.x/s/a.ts", "/s/a-100123/b", "/s/x.y.z.100123"] {
            assert!((1..4).all(|number| !word(number).is_match(path)), "{path}");
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
        let fragment = |n: usize| random(n, 16);
        let mut targets: Vec<Target> = (0..9).map(|n| with(Component::Query("token".into()), &fragment(n))).collect();
        targets.push(with(Component::Cookie("token".into()), &fragment(20)));
        targets.push(with(Component::Cmcd, "6e2fb550-c457"));
        targets.push(target("abcdef"));
        targets.push(word("uvwxyz"));
        let packed = pack(targets.iter(), Mode::Enforce);
        let shape: Vec<(&str, usize, u64)> =
            packed.rules.iter().map(|rule| (rule.component.as_str(), rule.sessions.len(), rule.wcu)).collect();
        assert_eq!(
            shape,
            [
                ("path-start", 1, STARTS_WITH_WCU),
                ("query:token", 9, 3),
                ("word 1 of [0-9A-Z_a-z-] in query:u", 1, 3),
                ("cookie:token", 1, 3),
                ("cmcd", 1, 6),
            ]
        );
    }

    #[test]
    fn a_session_with_many_credentials_is_one_session() {
        let mut targets: Vec<Target> =
            (0..20).map(|n| with(Component::Query("token".into()), &random(n, 16))).collect();
        targets.iter_mut().for_each(|target| target.session_id = "one".into());
        let packed = pack(targets.iter(), Mode::Enforce);
        assert!(packed.rules.len() > 1 && packed.rules.iter().all(|rule| rule.sessions == ["one"]));
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
            (Component::Word(2, class(), query()), format!("x.{id}.y")),
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
            let packed = pack(targets.iter(), Mode::Enforce);
            prop_assert!(packed.too_long.is_empty());
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
                (Component::Word(2, class.clone(), segment()), |id| format!("/s/u.{id}.x/live/a.ts")),
                (Component::Whole(Box::new(Component::Query("u".into()))), str::to_owned),
                (Component::Word(1, class, Box::new(Component::Query("u".into()))), |id| format!("({id})")),
                (Component::Cmcd, |id| format!("bl%3D1%2Csid%3D%22{id}%22%2Cst%3Dv")),
            ];
            for (component, sent) in places {
                let targets: Vec<Target> = ids[..split].iter().map(|id| with(component.clone(), id)).collect();
                let packed = pack(targets.iter(), Mode::Enforce);
                prop_assert!(packed.too_long.is_empty());
                let patterns: Vec<Regex> = packed.rules.iter().map(|rule| Regex::new(&rule.pattern).unwrap()).collect();
                for (index, id) in ids.iter().enumerate() {
                    let matched = patterns.iter().any(|pattern| pattern.is_match(&sent(id)));
                    prop_assert_eq!(matched, index < split, "{} in {}", id, component);
                }
            }
        }

        /// Within the documented limits, independent of order, and named by content.
        #[test]
        fn lawful_and_stable(ids in proptest::collection::vec("[A-Za-z0-9_-]{6,200}", 0..80)) {
            let targets: Vec<Target> = ids.iter().map(|id| target(id)).collect();
            let packed = pack(targets.iter(), Mode::Count);
            for rule in &packed.rules {
                prop_assert!(rule.pattern.chars().count() <= MAX_REGEX_CHARACTERS);
                prop_assert!(rule.name.len() <= 128);
            }
            let packed_sessions: usize = packed.rules.iter().map(|rule| rule.sessions.len()).sum();
            let distinct: std::collections::BTreeSet<&str> = targets.iter().map(|t| t.session_id.as_str()).collect();
            prop_assert_eq!(packed_sessions + packed.too_long.len(), distinct.len());
            let reversed: Vec<Target> = targets.into_iter().rev().collect();
            let names = |packed: &Packed| packed.rules.iter().map(|rule| rule.name.clone()).collect::<Vec<_>>();
            prop_assert_eq!(names(&packed), names(&pack(reversed.iter(), Mode::Count)));
        }
    }
}
