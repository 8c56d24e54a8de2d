//! Packs sessions into rules: as many as possible into one anchored regular expression.
//!
//! Exactness comes first. A credential has passed its scheme's grammar, is escaped here all the same, and is
//! closed by the delimiter that ends it in the request, so that no rule matches a session that is not meant.

use aws_sdk_wafv2::primitives::Blob;
use aws_sdk_wafv2::types::{
    BlockAction, ByteMatchStatement, CountAction, FieldToMatch, PositionalConstraint, RegexMatchStatement, Rule,
    RuleAction, Statement, TextTransformation, TextTransformationType, UriPath, VisibilityConfig,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::config::Mode;

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

/// The regular expression around the packed ids of `secure-media-delivery`: `/ID.` at the path's beginning.
const PATH_OPEN: &str = "^/(?:";
const PATH_CLOSE: &str = r")\.";

/// One session that is to be blocked or counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Target {
    pub session_id: String,
    pub credential: String,
}

/// A rule, before it has a priority.
#[derive(Clone, Debug)]
pub struct PackedRule {
    pub name: String,
    /// `enforce` blocks, `count` counts.
    pub mode: Mode,
    /// Session ids, in the order of their credentials.
    pub sessions: Vec<String>,
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

/// Packs targets of the scheme `secure-media-delivery` into rules of at most `room` WCUs.
///
/// A pure function of the set of targets: the order in which they come does not matter, and equal sets give
/// equal rules. Targets of equal credentials are packed once.
pub fn pack(targets: &[Target], mode: Mode, room: u64) -> Packed {
    let mut sorted: Vec<&Target> = targets.iter().collect();
    sorted.sort_by(|a, b| (&a.credential, &a.session_id).cmp(&(&b.credential, &b.session_id)));
    let mut packed = Packed::default();
    for group in groups(&sorted) {
        let rule = rule_for(&group, mode);
        match rule {
            Some(rule) if packed.wcu + rule.wcu <= room => {
                packed.wcu += rule.wcu;
                packed.rules.push(rule);
            }
            _ => packed.left_out.extend(group.iter().map(|target| target.session_id.clone())),
        }
    }
    packed
}

/// Cuts sorted targets into runs that fit one expression each.
fn groups<'a>(sorted: &[&'a Target]) -> Vec<Vec<&'a Target>> {
    let limit = MAX_REGEX_CHARACTERS - PATH_OPEN.len() - PATH_CLOSE.len();
    let mut groups: Vec<Vec<&Target>> = Vec::new();
    let mut used = limit;
    for target in sorted {
        let length = escape(&target.credential).chars().count();
        if let Some(group) = groups.last_mut() {
            let same = group.last().is_some_and(|last| last.credential == target.credential);
            if same || used + 1 + length <= limit {
                used += if same { 0 } else { 1 + length };
                group.push(target);
                continue;
            }
        }
        groups.push(vec![target]);
        used = length;
    }
    groups
}

fn rule_for(group: &[&Target], mode: Mode) -> Option<PackedRule> {
    let mut credentials: Vec<&str> = group.iter().map(|target| target.credential.as_str()).collect();
    credentials.dedup();
    let (statement, pattern, wcu) = match credentials.as_slice() {
        [one] => {
            let start = format!("/{one}.");
            if start.len() > MAX_STRING_BYTES {
                return None;
            }
            (starts_with(&start), start, STARTS_WITH_WCU)
        }
        several => {
            let alternatives: Vec<String> = several.iter().map(|credential| escape(credential)).collect();
            let pattern = format!("{PATH_OPEN}{}{PATH_CLOSE}", alternatives.join("|"));
            (matches(&pattern), pattern, REGEX_WCU)
        }
    };
    let digest = Sha256::digest(format!("{}\n{pattern}", mode.name()));
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Some(PackedRule {
        name: format!("{RULE_PREFIX}{}-{digest}", mode.name()),
        mode,
        sessions: group.iter().map(|target| target.session_id.clone()).collect(),
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

fn uri_path() -> FieldToMatch {
    FieldToMatch::builder().uri_path(UriPath::builder().build()).build()
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

fn matches(pattern: &str) -> Statement {
    let statement = RegexMatchStatement::builder()
        .regex_string(pattern)
        .field_to_match(uri_path())
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
        Target { session_id: id.into(), credential: id.into() }
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
            prop_assert_eq!(packed_sessions + packed.left_out.len(), targets.len());
            let reversed: Vec<Target> = targets.into_iter().rev().collect();
            let names = |packed: &Packed| packed.rules.iter().map(|rule| rule.name.clone()).collect::<Vec<_>>();
            prop_assert_eq!(names(&packed), names(&pack(&reversed, Mode::Count, room)));
        }
    }
}
