//! What AWS WAF does with a request, written from AWS's documentation alone and from nothing of the program.
//!
//! Whatever the documentation forbids or this file does not know is a panic. Where the documentation says
//! nothing, every [`Reading`] of it must give the same answer: the program must not depend on the undocumented.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Debug;

use aws_sdk_wafv2::types::{
    ByteMatchStatement, Cookies, FieldToMatch, MapMatchScope, OversizeHandling, PositionalConstraint,
    RegexMatchStatement, Rule, RuleAction, Statement, TextTransformation, TextTransformationType,
};
use regex::bytes::{Regex, RegexBuilder};

/// Bytes and cookies of the Cookie header that WAF inspects (page `waf-oversize-request-components`).
const COOKIE_BYTES: usize = 8_192;
const COOKIE_COUNT: usize = 200;

/// A request as WAF sees it: as the client sent it.
#[derive(Clone, Debug, Default)]
pub struct WebRequest {
    pub path: String,
    /// Without the `?`.
    pub query: Option<String>,
    /// Names as sent, `Cookie` among them.
    pub headers: Vec<(String, String)>,
}

/// One way to read what the documentation leaves open.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// A query argument is percent-decoded before it is compared.
    decodes_arguments: bool,
    /// Decoding turns `+` into a space, in arguments and in `URL_DECODE`.
    plus_is_space: bool,
    /// The cookie that lies across the inspection limit is inspected up to the limit, not left out.
    keeps_cut_cookie: bool,
}

const READINGS: [Reading; 3] = [
    Reading { decodes_arguments: false, plus_is_space: false, keeps_cut_cookie: true },
    Reading { decodes_arguments: true, plus_is_space: false, keeps_cut_cookie: false },
    Reading { decodes_arguments: true, plus_is_space: true, keeps_cut_cookie: false },
];

/// What a statement looks at, where one value that matches is enough and none, a missing component, is no match;
/// or what oversize handling has decided without looking.
type Inspected = Result<Vec<Vec<u8>>, bool>;

/// The statements this file knows.
enum Kind<'a> {
    Byte(&'a ByteMatchStatement),
    Regex(&'a RegexMatchStatement),
    And(&'a [Statement]),
    Or(&'a [Statement]),
    Not(&'a Statement),
}

/// Whether WAF blocks the request: whether the rule that ends the evaluation of the group blocks.
pub fn blocks(rules: &[Rule], request: &WebRequest) -> bool {
    agreed(request, |reading| decide(rules, request, reading).is_some_and(|rule| action(rule).block.is_some()))
}

/// The rule that ends the evaluation of the group (block or allow, lowest priority first); where none does, the
/// first rule that counts the request.
pub fn matching<'a>(rules: &'a [Rule], request: &WebRequest) -> Option<&'a Rule> {
    let name = agreed(request, |reading| decide(rules, request, reading).map(Rule::name));
    rules.iter().find(|rule| Some(rule.name()) == name)
}

/// Capacity units of a rule by itself (pages `aws-waf-capacity-units`, `waf-rule-statements-match`), without the
/// discount for transformations shared between rules, which is not guaranteed.
pub fn wcu(rule: &Rule) -> u64 {
    fn transformed(base: u64, transformations: &[TextTransformation]) -> u64 {
        base + 10 * transformations.iter().filter(|one| one.r#type != TextTransformationType::None).count() as u64
    }
    fn cost(statement: &Statement) -> u64 {
        match kind(statement) {
            Kind::Byte(byte) => {
                let contains = matches!(
                    byte.positional_constraint,
                    PositionalConstraint::Contains | PositionalConstraint::ContainsWord
                );
                transformed(if contains { 10 } else { 2 }, &byte.text_transformations)
            }
            Kind::Regex(regex) => transformed(3, &regex.text_transformations),
            Kind::And(children) | Kind::Or(children) => children.iter().map(cost).sum(),
            Kind::Not(child) => cost(child),
        }
    }
    cost(rule.statement().expect("a rule needs a statement"))
}

/// The answer that every reading gives.
fn agreed<T: Debug + PartialEq>(request: &WebRequest, answer: impl Fn(Reading) -> T) -> T {
    let [first, others @ ..] = READINGS.map(|reading| (reading, answer(reading)));
    for other in others {
        assert!(first.1 == other.1, "WAF's documentation leaves this open: {first:?} or {other:?} for {request:?}");
    }
    first.1
}

/// See [`matching`]. Every rule is evaluated, so that a bad one is never missed (page
/// `web-acl-processing-order`).
fn decide<'a>(rules: &'a [Rule], request: &WebRequest, reading: Reading) -> Option<&'a Rule> {
    let mut ordered: Vec<&Rule> = rules.iter().collect();
    ordered.sort_by_key(|rule| rule.priority);
    assert!(ordered.windows(2).all(|two| two[0].priority < two[1].priority), "priorities must differ");
    let actions: HashMap<&str, &RuleAction> = rules.iter().map(|rule| (rule.name(), action(rule))).collect();
    assert!(actions.len() == rules.len(), "names of rules must differ");
    ordered.retain(|rule| evaluate(rule.statement().expect("a rule needs a statement"), request, reading));
    ordered.iter().find(|rule| actions[rule.name()].count.is_none()).or(ordered.first()).copied()
}

/// The action of a rule of a group: block, allow or count.
fn action(rule: &Rule) -> &RuleAction {
    let action = rule.action().unwrap_or_else(|| panic!("a rule of a group needs an action: {rule:?}"));
    let known = RuleAction::builder().set_block(action.block.clone()).set_allow(action.allow.clone());
    let set = [action.block.is_some(), action.allow.is_some(), action.count.is_some()];
    let whole = known.set_count(action.count.clone()).build() == *action && rule.override_action.is_none();
    assert!(whole && set.iter().filter(|set| **set).count() == 1, "not one known action: {rule:?}");
    action
}

/// The one member a statement must have (page `API_Statement`).
fn kind(statement: &Statement) -> Kind<'_> {
    let known = Statement::builder()
        .set_byte_match_statement(statement.byte_match_statement.clone())
        .set_regex_match_statement(statement.regex_match_statement.clone())
        .set_and_statement(statement.and_statement.clone())
        .set_or_statement(statement.or_statement.clone())
        .set_not_statement(statement.not_statement.clone())
        .build();
    let mut kinds: Vec<Kind> = Vec::new();
    kinds.extend(statement.byte_match_statement().map(Kind::Byte));
    kinds.extend(statement.regex_match_statement().map(Kind::Regex));
    kinds.extend(statement.and_statement().map(|and| Kind::And(and.statements())));
    kinds.extend(statement.or_statement().map(|or| Kind::Or(or.statements())));
    kinds.extend(statement.not_statement().map(|not| Kind::Not(not.statement().expect("NOT needs a statement"))));
    assert!(known == *statement && kinds.len() == 1, "not one known statement: {statement:?}");
    let kind = kinds.remove(0);
    if let Kind::And(children) | Kind::Or(children) = kind {
        assert!(children.len() >= 2, "AND and OR need two statements: {statement:?}");
    }
    kind
}

fn evaluate(statement: &Statement, request: &WebRequest, reading: Reading) -> bool {
    // All children, whatever the first ones say: a bad one must be seen.
    let all = |children: &[Statement]| -> Vec<bool> {
        children.iter().map(|child| evaluate(child, request, reading)).collect()
    };
    match kind(statement) {
        Kind::And(children) => all(children).iter().all(|matched| *matched),
        Kind::Or(children) => all(children).contains(&true),
        Kind::Not(child) => !evaluate(child, request, reading),
        Kind::Byte(byte) => {
            let wanted = byte.search_string.as_ref();
            assert!((1..=200).contains(&wanted.len()), "a search string has 1 to 200 bytes: {byte:?}");
            assert!(byte.pre_parse_text_transformations.is_none(), "unknown here: {byte:?}");
            let constraint = &byte.positional_constraint;
            look(byte.field_to_match(), &byte.text_transformations, request, reading, |value| {
                byte_match(constraint, wanted, value)
            })
        }
        Kind::Regex(regex) => {
            assert!(regex.pre_parse_text_transformations.is_none(), "unknown here: {regex:?}");
            let pattern = compiled(&regex.regex_string);
            look(regex.field_to_match(), &regex.text_transformations, request, reading, |value| {
                // As in PCRE, `$` is also before a newline that ends the text.
                pattern.is_match(value) || value.strip_suffix(b"\n").is_some_and(|line| pattern.is_match(line))
            })
        }
    }
}

/// Page `waf-rule-statement-type-string-match`.
fn byte_match(constraint: &PositionalConstraint, wanted: &[u8], value: &[u8]) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    match constraint {
        PositionalConstraint::Exactly => value == wanted,
        PositionalConstraint::StartsWith => value.starts_with(wanted),
        PositionalConstraint::EndsWith => value.ends_with(wanted),
        PositionalConstraint::Contains => value.windows(wanted.len()).any(|part| part == wanted),
        PositionalConstraint::ContainsWord => {
            assert!(wanted.iter().all(word), "CONTAINS_WORD takes letters, digits and _ only: {wanted:?}");
            value.windows(wanted.len()).enumerate().any(|(start, part)| {
                let (before, after) = (&value[..start], &value[start + wanted.len()..]);
                part == wanted && !before.last().is_some_and(word) && !after.first().is_some_and(word)
            })
        }
        other => panic!("unknown here: {other:?}"),
    }
}

/// Applies the transformations to each value of the component and then the test (pages
/// `waf-rule-statement-transformation`, `API_TextTransformation`).
fn look(
    field: Option<&FieldToMatch>,
    transformations: &[TextTransformation],
    request: &WebRequest,
    reading: Reading,
    test: impl Fn(&[u8]) -> bool,
) -> bool {
    assert!((1..=10).contains(&transformations.len()), "a statement has 1 to 10 text transformations");
    let mut ordered: Vec<_> = transformations.iter().collect();
    ordered.sort_by_key(|one| one.priority);
    assert!(ordered.windows(2).all(|two| two[0].priority < two[1].priority), "priorities must differ: {ordered:?}");
    let transform = |value: Vec<u8>| {
        ordered.iter().fold(value, |value, one| match one.r#type {
            TextTransformationType::None => value,
            TextTransformationType::Lowercase => value.to_ascii_lowercase(),
            TextTransformationType::UrlDecode => url_decoded(&value, reading.plus_is_space),
            _ => panic!("unknown here: {one:?}"),
        })
    };
    // Also without a value, so that what WAF refuses or this file does not know is seen.
    test(&transform(Vec::new()));
    match inspected(field.expect("a statement needs a FieldToMatch"), request, reading) {
        Ok(values) => values.into_iter().any(|value| test(&transform(value))),
        Err(matched) => matched,
    }
}

/// Page `waf-rule-statement-fields-list`.
fn inspected(field: &FieldToMatch, request: &WebRequest, reading: Reading) -> Inspected {
    let known = FieldToMatch::builder()
        .set_uri_path(field.uri_path.clone())
        .set_query_string(field.query_string.clone())
        .set_single_query_argument(field.single_query_argument.clone())
        .set_single_header(field.single_header.clone())
        .set_cookies(field.cookies.clone())
        .build();
    let mut found: Vec<Inspected> = Vec::new();
    if field.uri_path.is_some() {
        found.push(Ok(vec![request.path.clone().into_bytes()]));
    }
    if field.query_string.is_some() {
        found.push(Ok(request.query.iter().map(|query| query.clone().into_bytes()).collect()));
    }
    if let Some(argument) = &field.single_query_argument {
        assert!((1..=30).contains(&argument.name.len()), "an argument name has 1 to 30 characters: {argument:?}");
        let read = |text: &str| match reading.decodes_arguments {
            true => url_decoded(text.as_bytes(), reading.plus_is_space),
            false => text.as_bytes().to_vec(),
        };
        let arguments = request.query.iter().flat_map(|query| query.split('&')).filter_map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            read(name).eq_ignore_ascii_case(argument.name.as_bytes()).then(|| read(value))
        });
        found.push(Ok(arguments.collect()));
    }
    if let Some(header) = &field.single_header {
        assert!((1..=64).contains(&header.name.len()), "a header name has 1 to 64 characters: {header:?}");
        assert!(header.name == header.name.to_ascii_lowercase(), "give the name in lower case: {header:?}");
        found.push(Ok(request.header(&header.name).map(|value| value.as_bytes().to_vec()).collect()));
    }
    found.extend(field.cookies.as_ref().map(|cookies| inspected_cookies(cookies, request, reading)));
    assert!(known == *field && found.len() == 1, "not one known component: {field:?}");
    found.remove(0)
}

/// Pages `API_Cookies`, `API_CookieMatchPattern` and `waf-oversize-request-components`.
fn inspected_cookies(cookies: &Cookies, request: &WebRequest, reading: Reading) -> Inspected {
    let pattern = cookies.match_pattern.as_ref().expect("Cookies needs a MatchPattern");
    let (named, wanted) = match (&pattern.all, &pattern.included_cookies, &pattern.excluded_cookies) {
        (Some(_), None, None) => (&[] as &[String], false),
        (None, Some(names), None) => (names.as_slice(), true),
        (None, None, Some(names)) => (names.as_slice(), false),
        _ => panic!("not one known pattern: {pattern:?}"),
    };
    let fits = pattern.all.is_some() || (1..=199).contains(&named.len());
    assert!(fits && named.iter().all(|name| (1..=60).contains(&name.len())), "bad names of cookies: {named:?}");

    let header = request.header("cookie").collect::<Vec<_>>().join("; ").into_bytes();
    let mut parts: Vec<&[u8]> = header[..header.len().min(COOKIE_BYTES)].split(|byte| *byte == b';').collect();
    if header.get(COOKIE_BYTES).is_some_and(|next| *next != b';') && !reading.keeps_cut_cookie {
        parts.pop();
    }
    parts.retain(|part| !part.trim_ascii().is_empty());
    let oversize = header.len() > COOKIE_BYTES || parts.len() > COOKIE_COUNT;
    match cookies.oversize_handling {
        OversizeHandling::Continue => {}
        OversizeHandling::Match if oversize => return Err(true),
        OversizeHandling::NoMatch if oversize => return Err(false),
        OversizeHandling::Match | OversizeHandling::NoMatch => {}
        ref other => panic!("unknown here: {other:?}"),
    }
    let values = parts.into_iter().take(COOKIE_COUNT).flat_map(|part| {
        let end = part.iter().position(|byte| *byte == b'=');
        let name = part[..end.unwrap_or(part.len())].trim_ascii();
        let value = end.map(|end| part[end + 1..].trim_ascii());
        // Names of cookies are compared with their case.
        let chosen = named.iter().any(|one| one.as_bytes() == name) == wanted;
        let of_scope = match cookies.match_scope {
            MapMatchScope::Key => vec![name],
            MapMatchScope::Value => value.into_iter().collect(),
            MapMatchScope::All => [name].into_iter().chain(value).collect(),
            ref other => panic!("unknown here: {other:?}"),
        };
        of_scope.into_iter().filter(move |_| chosen).map(<[u8]>::to_vec)
    });
    Ok(values.collect())
}

impl WebRequest {
    /// All values of a header, whatever the case of its name.
    fn header(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(sent, _)| sent.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Decodes `%` and two hexadecimal digits and leaves any other `%` as it is.
fn url_decoded(text: &[u8], plus_is_space: bool) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let (byte, length) = match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => ((high * 16 + low) as u8, 3),
            (b'+', ..) if plus_is_space => (b' ', 1),
            (byte, ..) => (byte, 1),
        };
        decoded.push(byte);
        at += length;
    }
    decoded
}

/// A pattern of WAF's dialect (pages `waf-regex-pattern-support`, `limits`), compiled once per thread.
fn compiled(pattern: &str) -> Regex {
    thread_local!(static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default());
    COMPILED.with_borrow_mut(|compiled| {
        let new = || {
            assert!((1..=200).contains(&pattern.len()), "a pattern has 1 to 200 characters: {pattern}");
            assert_dialect(pattern);
            RegexBuilder::new(pattern).unicode(false).build().unwrap_or_else(|error| panic!("{error}"))
        };
        compiled.entry(pattern.to_owned()).or_insert_with(new).clone()
    })
}

/// Panics unless the pattern is one that WAF takes and that PCRE and the regex crate read alike: literals, `.`,
/// `^`, `$`, `|`, classes, `(?:`, greedy and lazy quantifiers and a few escapes.
fn assert_dialect(pattern: &str) {
    let class = r"\[\^?(?:[^\[\]\\]|\\(?:[[:punct:]--<>]|[dDsSwWtnrf]))+\]";
    let atom = format!(r"(?:[^\\\[(){{*+?]|\)|\\(?:[[:punct:]--<>]|[bBdDsSwWtnrf])|{class})");
    let quantifier = r"(?:(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??)?";
    let dialect = Regex::new(&format!(r"\A(?:\(\?:|{atom}{quantifier})*\z")).unwrap();
    // Rust alone reads these inside a class as operators, and `\b{...}` as a kind of boundary.
    let rust_only = Regex::new(&format!(r"\\[bB]\{{|\\.|{class}")).unwrap();
    let rust_only = rust_only.find_iter(pattern.as_bytes()).map(|found| found.as_bytes()).any(|part| {
        part.len() > 2
            && (part[0] == b'\\'
                || part.windows(2).any(|two| ["&&", "--", "~~"].iter().any(|operator| operator.as_bytes() == two)))
    });
    let known = pattern.is_ascii() && dialect.is_match(pattern.as_bytes()) && !rust_only;
    assert!(known, "outside WAF's dialect, or unknown here: {pattern}");
}

/// Examples of the documentation, and what it refuses.
mod examples {
    use std::panic::catch_unwind;

    use aws_sdk_wafv2::types::*;

    use super::{WebRequest, blocks, matching, wcu};

    const NONE: &[TextTransformationType] = &[TextTransformationType::None];

    fn request(path: &str, query: &str, headers: &[(&str, &str)]) -> WebRequest {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        WebRequest { path: path.to_owned(), query: Some(query.to_owned()).filter(|text| !text.is_empty()), headers }
    }

    fn path() -> FieldToMatch {
        FieldToMatch::builder().uri_path(UriPath::builder().build()).build()
    }

    fn argument(name: &str) -> FieldToMatch {
        let argument = SingleQueryArgument::builder().name(name).build().unwrap();
        FieldToMatch::builder().single_query_argument(argument).build()
    }

    fn header(name: &str) -> FieldToMatch {
        FieldToMatch::builder().single_header(SingleHeader::builder().name(name).build().unwrap()).build()
    }

    fn cookie(name: &str, scope: MapMatchScope, oversize: OversizeHandling) -> FieldToMatch {
        let pattern = CookieMatchPattern::builder().included_cookies(name).build();
        let cookies = Cookies::builder().match_pattern(pattern).match_scope(scope).oversize_handling(oversize);
        FieldToMatch::builder().cookies(cookies.build().unwrap()).build()
    }

    fn transformations(types: &[TextTransformationType]) -> Option<Vec<TextTransformation>> {
        let one = |(at, one): (usize, &TextTransformationType)| {
            TextTransformation::builder().priority(at as i32).r#type(one.clone()).build().unwrap()
        };
        Some(types.iter().enumerate().map(one).collect())
    }

    fn byte(field: FieldToMatch, how: &str, wanted: &str, types: &[TextTransformationType]) -> Statement {
        let byte = ByteMatchStatement::builder()
            .search_string(aws_sdk_wafv2::primitives::Blob::new(wanted))
            .positional_constraint(how.into())
            .field_to_match(field)
            .set_text_transformations(transformations(types));
        Statement::builder().byte_match_statement(byte.build().unwrap()).build()
    }

    fn regex(field: FieldToMatch, pattern: &str) -> Statement {
        let regex = RegexMatchStatement::builder().regex_string(pattern).field_to_match(field);
        let regex = regex.set_text_transformations(transformations(NONE)).build().unwrap();
        Statement::builder().regex_match_statement(regex).build()
    }

    fn or(children: &[Statement]) -> Statement {
        let or = OrStatement::builder().set_statements(Some(children.to_vec())).build().unwrap();
        Statement::builder().or_statement(or).build()
    }

    fn and(children: &[Statement]) -> Statement {
        let and = AndStatement::builder().set_statements(Some(children.to_vec())).build().unwrap();
        Statement::builder().and_statement(and).build()
    }

    fn not(child: Statement) -> Statement {
        Statement::builder().not_statement(NotStatement::builder().statement(child).build()).build()
    }

    fn rule(priority: i32, action: &str, statement: Statement) -> Rule {
        let actions = RuleAction::builder();
        let action = match action {
            "block" => actions.block(BlockAction::builder().build()),
            "allow" => actions.allow(AllowAction::builder().build()),
            _ => actions.count(CountAction::builder().build()),
        };
        let visibility = VisibilityConfig::builder().metric_name("metric");
        let visibility = visibility.sampled_requests_enabled(false).cloud_watch_metrics_enabled(false);
        let rule = Rule::builder().name(format!("rule-{priority}")).priority(priority).statement(statement);
        rule.action(action.build()).visibility_config(visibility.build().unwrap()).build().unwrap()
    }

    fn matches(statement: &Statement, request: &WebRequest) -> bool {
        blocks(&[rule(0, "block", statement.clone())], request)
    }

    fn refused(statement: &Statement, request: &WebRequest) -> bool {
        catch_unwind(|| matches(statement, request)).is_err()
    }

    #[test]
    fn positions_of_a_string() {
        let yes = "EXACTLY /abc /abc|STARTS_WITH /abc /abcd/x.m3u8|ENDS_WITH .m3u8 /abc/x.m3u8|CONTAINS abc /xabcx|\
            CONTAINS_WORD Bot Bot|CONTAINS_WORD Bot Bot;|CONTAINS_WORD Bot ;Bot|CONTAINS_WORD Bot Bots-Bot;";
        let no = "EXACTLY /abc /abc/|EXACTLY /abc /ABC|STARTS_WITH /abc/ /abcd/x.m3u8|ENDS_WITH .m3u8 /x.m3u8/|\
            CONTAINS abc /ab/c|CONTAINS_WORD Bot xBot-Bots_Bot-Bot1";
        for (cases, expected) in [(yes, true), (no, false)] {
            for case in cases.split('|') {
                let [how, wanted, text] = case.split(' ').collect::<Vec<_>>().try_into().unwrap();
                assert_eq!(matches(&byte(path(), how, wanted, NONE), &request(text, "", &[])), expected, "{case}");
            }
        }
    }

    #[test]
    fn components() {
        let asked = request("/%61", "a=1&Token=x&token=y", &[("X-Id", "one"), ("x-id", "two")]);
        let query = FieldToMatch::builder().query_string(QueryString::builder().build()).build();
        for (field, wanted, expected) in [
            (path(), "/%61", true),
            (path(), "/a", false),
            (query.clone(), "a=1&Token=x&token=y", true),
            (argument("TOKEN"), "x", true),
            (argument("token"), "y", true),
            (argument("b"), "1", false),
            (header("x-id"), "one", true),
            (header("x-id"), "two", true),
            (header("x-other"), "two", false),
        ] {
            assert_eq!(matches(&byte(field.clone(), "EXACTLY", wanted, NONE), &asked), expected, "{field:?} {wanted}");
        }
        // Without the component a statement does not match, and NOT of it does.
        let any = regex(query, ".*");
        assert!(!matches(&any, &request("/", "", &[])) && matches(&not(any), &request("/", "", &[])));
    }

    #[test]
    fn transformations_in_order() {
        use TextTransformationType::{Lowercase, UrlDecode};
        let asked = request("/%41bc", "", &[]);
        assert!(matches(&byte(path(), "EXACTLY", "/abc", &[UrlDecode, Lowercase]), &asked));
        assert!(matches(&byte(path(), "EXACTLY", "/Abc", &[Lowercase, UrlDecode]), &asked));
        assert!(!matches(&byte(path(), "EXACTLY", "/abc", NONE), &asked));
        assert!(matches(&byte(path(), "EXACTLY", "/100%", &[UrlDecode]), &request("/100%", "", &[])));
    }

    #[test]
    fn cookies() {
        let field = |scope| cookie("sid", scope, OversizeHandling::Continue);
        let asked = request("/", "", &[("cookie", "SID=no; other=v1;sid= v2 "), ("Cookie", "x=sid")]);
        let found = |scope: MapMatchScope| {
            ["no", "v1", "v2", "sid"]
                .map(|wanted| matches(&byte(field(scope.clone()), "EXACTLY", wanted, NONE), &asked))
        };
        assert_eq!(found(MapMatchScope::Value), [false, false, true, false]);
        assert_eq!(found(MapMatchScope::Key), [false, false, false, true]);
        assert_eq!(found(MapMatchScope::All), [false, false, true, true]);
    }

    #[test]
    fn cookies_beyond_the_limit() {
        let sid = |how, oversize| byte(cookie("sid", MapMatchScope::Value, oversize), how, "v", NONE);
        let many = "a=b; ".repeat(200) + "sid=v";
        let long = format!("sid=v; a={}", "b".repeat(8_192));
        for (cookies, inspected) in [(&many, false), (&long, true)] {
            let asked = request("/", "", &[("cookie", cookies)]);
            assert_eq!(matches(&sid("EXACTLY", OversizeHandling::Continue), &asked), inspected);
            assert!(matches(&sid("EXACTLY", OversizeHandling::Match), &asked));
            assert!(!matches(&sid("EXACTLY", OversizeHandling::NoMatch), &asked));
        }
        let fits = request("/", "", &[("cookie", &many[5..])]);
        assert!(matches(&sid("EXACTLY", OversizeHandling::NoMatch), &fits));
        // Whether a value is looked at up to the limit is not documented.
        let cut = request("/", "", &[("cookie", &format!("a={}; sid=vvvv", "b".repeat(8_182)))]);
        assert!(refused(&sid("STARTS_WITH", OversizeHandling::Continue), &cut));
    }

    #[test]
    fn an_undocumented_answer_is_refused() {
        let token = |wanted| byte(argument("token"), "EXACTLY", wanted, NONE);
        for (sent, open) in [("token=a%3Db", true), ("%74oken=a=b", true), ("token=a=b", false), ("token=c", false)] {
            assert_eq!(refused(&token("a=b"), &request("/", sent, &[])), open, "{sent}");
        }
        assert!(refused(&token("a+b"), &request("/", "token=a+b", &[])));
        // Rules that foresee each reading do not depend on it.
        assert!(matches(&or(&[token("a=b"), token("a%3Db")]), &request("/", "token=a%3Db", &[])));
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("b", "/abc", true),
            (r"^/(?:a|b)\.", "/b.m3u8", true),
            (r"^/(?:a|b)\.", "/c.m3u8", false),
            ("^/[a-z]{2,3}?$", "/abc\n", true),
            (r"^/[^/\]]+/x$", "/abc/x", true),
            ("a--b", "/a--b", true),
        ] {
            assert_eq!(matches(&regex(path(), pattern), &request(text, "", &[])), expected, "{pattern}");
        }
        let bad = r"(a) (?<n>a) (?P<n>a) (?i)a (?>a) (?=a) (?R) (*ACCEPT) (?:a)\1 \Ka \Ca \Ra a++ a*+ a{2}+ a** a{,3} \<a
            a\b{start} [a--b] [a&&b] [[:alpha:]] []a] [\b] a) (?:a é";
        let long = "a".repeat(201);
        for pattern in bad.split_whitespace().chain([long.as_str(), ""]) {
            assert!(refused(&regex(path(), pattern), &request("/", "", &[])), "{pattern}");
        }
    }

    #[test]
    fn what_the_api_refuses() {
        let asked = request("/", "", &[]);
        let good = byte(path(), "EXACTLY", "/", NONE);
        assert!(matches(&good, &asked) && !refused(&byte(path(), "CONTAINS", &"a".repeat(200), NONE), &asked));
        let both = FieldToMatch::builder().uri_path(UriPath::builder().build()).method(Method::builder().build());
        let method = FieldToMatch::builder().method(Method::builder().build()).build();
        for bad in [
            byte(path(), "EXACTLY", &"a".repeat(201), NONE),
            byte(path(), "EXACTLY", "/", &[]),
            byte(path(), "EXACTLY", "/", &[TextTransformationType::Md5]),
            byte(header("x-missing"), "CONTAINS_WORD", "a-b", NONE),
            byte(argument(&"a".repeat(31)), "EXACTLY", "/", NONE),
            byte(header("Host"), "EXACTLY", "/", NONE),
            byte(cookie(&"a".repeat(61), MapMatchScope::Value, OversizeHandling::Match), "EXACTLY", "/", NONE),
            byte(both.build(), "EXACTLY", "/", NONE),
            byte(method, "EXACTLY", "/", NONE),
            or(std::slice::from_ref(&good)),
            and(&[]),
            or(&[good.clone(), regex(path(), "(a)")]),
            Statement::builder().build(),
        ] {
            assert!(refused(&bad, &asked), "{bad:?}");
        }
        let twice = [rule(1, "block", good.clone()), rule(1, "block", good)];
        assert!(catch_unwind(|| blocks(&twice, &asked)).is_err());
    }

    #[test]
    fn rules_in_order_and_their_cost() {
        let starts = |wanted| byte(path(), "STARTS_WITH", wanted, NONE);
        let (a, not_ab) = (starts("/a"), not(starts("/ab")));
        let rules = [
            rule(9, "block", a.clone()),
            rule(2, "allow", starts("/ab")),
            rule(1, "count", or(&[a.clone(), starts("/c")])),
            rule(0, "count", and(&[a, not_ab])),
        ];
        for (path, first, blocked) in [
            ("/abc", Some("rule-2"), false),
            ("/ac", Some("rule-9"), true),
            ("/c", Some("rule-1"), false),
            ("/", None, false),
        ] {
            let asked = request(path, "", &[]);
            assert_eq!((matching(&rules, &asked).map(Rule::name), blocks(&rules, &asked)), (first, blocked), "{path}");
        }
        assert_eq!(rules.each_ref().map(wcu), [2, 2, 4, 4]);
        let lower = [TextTransformationType::Lowercase, TextTransformationType::UrlDecode];
        assert_eq!(wcu(&rule(0, "block", byte(path(), "CONTAINS", "a", &lower))), 30);
        assert_eq!(wcu(&rule(0, "block", regex(path(), "a"))), 3);
    }
}
