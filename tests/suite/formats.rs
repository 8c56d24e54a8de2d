//! Every log format under every token scheme: the same viewers are found, and just their requests are blocked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::aws::{make_group, read_group, waf, waf_config};
use crate::model::format::{Format, REALTIME_FIELDS};
use crate::model::token::Scheme;
use crate::model::{self, traffic};
use crate::support::Place;
use crate::support::servers::{AwsServer, duckdb};
use crate::support::waf::{WebRequest, blocks, wcu};

/// Few sessions, several pirates: enough for findings of every detector.
pub fn scenario(scheme: Scheme) -> traffic::Scenario {
    traffic::Scenario {
        seed: 77,
        start: "2026-11-20T18:30:00Z".parse().unwrap(),
        duration: chrono::TimeDelta::minutes(60),
        sessions: 24,
        pirates: 4,
        grey: 1,
        visits: 10,
        views: model::views::Views { least: 40_000, most: 180_000 },
        mix: model::kinds::Mix::Evening,
        scheme,
    }
}

/// The entry `[[session]]` of a scheme of the generator.
pub fn entry(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::SecureMediaDelivery { .. } => "scheme = 'secure-media-delivery'",
        Scheme::JwtPath => "scheme = 'jwt'\npath_segment = 2\nclaim = 'sid'",
        Scheme::JwtQuery => "scheme = 'jwt'\nquery = 'token'\nclaim = 'sid'",
        Scheme::JwtCookie => "scheme = 'jwt'\ncookie = 'playback'\nclaim = 'sid'",
        Scheme::JwtHeader => "scheme = 'jwt'\nheader = 'Authorization'\nclaim = 'sid'",
        Scheme::SignedCookie | Scheme::SignedCookieCanned => "scheme = 'signed-cookie'",
        Scheme::SignedCookieId => "scheme = 'signed-cookie'\ncookie = 'session'",
        Scheme::SignedUrl => "scheme = 'signed-url'",
        Scheme::SignedUrlId => "scheme = 'signed-url'\nquery = 'sid'",
        Scheme::StreamKey => "scheme = 'stream-key'",
        Scheme::CmcdQuery => "scheme = 'cmcd'",
        Scheme::Custom => "scheme = 'custom'\nfield = 'cs-uri-stem'\npattern = '^/s/(?<session>[^/]+)/'",
    }
}

fn schemes() -> &'static [Scheme] {
    Scheme::value_variants()
}

/// Only real-time logs show headers.
fn carries(format: Format, scheme: Scheme) -> bool {
    let realtime = matches!(format, Format::Realtime | Format::RealtimeJoined);
    realtime || !matches!(scheme, Scheme::JwtHeader | Scheme::StreamKey)
}

fn quoted(names: &[&str]) -> String {
    format!("[{}]", names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", "))
}

/// A place with the logs of a scenario in one format, whose config blocks whatever is found.
pub fn place(scenario: &traffic::Scenario, format: Format) -> Place {
    let place = Place::new("");
    configure(&place, entry(scenario.scheme), "");
    model::write(scenario, format, 300, place.path("logs"), &place.path("labels.csv")).unwrap();
    place
}

/// Which segments are recorded follows from their paths, and schemes that put the token there have others.
const SAME_EVERYWHERE: &str = "[detectors.same_segment]\nmode = 'off'\n";

pub fn configure(place: &Place, session: &str, more: &str) {
    let geoip = crate::support::fixtures().join("geoip");
    let config = format!(
        "[state]\nlocation = 'state'\n[[logs]]\nlocation = 'logs'\nfields = {}\n[[session]]\n{session}\n\
         [geoip]\ncountry = '{1}/country.mmdb'\nasn = '{1}/asn.mmdb'\n\
         [guard]\nenforce_unbound = true\nenforce_derived = true\n{SAME_EVERYWHERE}{more}\n",
        quoted(REALTIME_FIELDS),
        geoip.display()
    );
    fs::write(place.path("streamwarden.toml"), config).unwrap();
}

/// Who each session of a scenario is, whatever its token looks like.
fn viewers(scenario: &traffic::Scenario) -> BTreeMap<String, String> {
    let labels = traffic::generate(scenario).labels;
    labels.into_iter().map(|label| (label.session_id, label.viewer)).collect()
}

/// What a replay finds and would block, by viewer.
fn found(place: &Place, scenario: &traffic::Scenario) -> BTreeSet<String> {
    let viewers = viewers(scenario);
    let replayed = place.json(0, &["replay", "--output", "json"]);
    let viewer = |row: &Value| viewers[row["session_id"].as_str().unwrap()].clone();
    let findings = replayed["findings"].as_array().unwrap().iter().map(|row| {
        format!(
            "{} {} {:.6} {} {}",
            viewer(row),
            row["detector"],
            row["score"].as_f64().unwrap(),
            row["strength"],
            row["window_end"]
        )
    });
    let revocations = replayed["revocations"].as_array().unwrap().iter();
    let blocks = revocations.map(|row| format!("{} {} {}", viewer(row), row["detectors"], row["decided_at"]));
    findings.chain(blocks).collect()
}

fn same_findings_under_every_scheme(format: Format) {
    let first = scenario(schemes()[0]);
    let expected = found(&place(&first, Format::Standard), &first);
    assert!(expected.len() > 8, "{expected:?}");
    let mut compared = 0;
    for scheme in schemes().iter().copied().filter(|scheme| carries(format, *scheme)) {
        let scenario = scenario(scheme);
        assert_eq!(found(&place(&scenario, format), &scenario), expected, "{} under {}", format.name(), scheme.name());
        compared += 1;
    }
    assert!(compared >= 12);
}

#[test]
fn standard_logs_under_every_scheme() {
    same_findings_under_every_scheme(Format::Standard);
}

#[test]
fn w3c_logs_under_every_scheme() {
    same_findings_under_every_scheme(Format::W3c);
}

#[test]
fn plain_logs_under_every_scheme() {
    same_findings_under_every_scheme(Format::Plain);
}

#[test]
fn raw_logs_under_every_scheme() {
    same_findings_under_every_scheme(Format::Raw);
}

#[test]
fn json_logs_under_every_scheme() {
    same_findings_under_every_scheme(Format::Json);
}

#[test]
fn parquet_logs_under_every_scheme() {
    same_findings_under_every_scheme(Format::Parquet);
}

#[test]
fn realtime_logs_under_every_scheme() {
    same_findings_under_every_scheme(Format::Realtime);
}

#[test]
fn joined_realtime_logs_under_every_scheme() {
    same_findings_under_every_scheme(Format::RealtimeJoined);
}

/// A bucket may hold several kinds, and a deployment several schemes: half of the traffic of each.
#[test]
fn all_kinds_in_one_place() {
    let place = Place::new("");
    let mut entries = Vec::new();
    let mut expected = 0;
    let all = [
        (Format::Standard, Scheme::SecureMediaDelivery { bound: true }),
        (Format::W3c, Scheme::JwtQuery),
        (Format::Plain, Scheme::JwtCookie),
        (Format::Raw, Scheme::Custom),
        (Format::Json, Scheme::SignedCookie),
        (Format::Parquet, Scheme::SignedUrl),
        (Format::Realtime, Scheme::StreamKey),
        (Format::RealtimeJoined, Scheme::CmcdQuery),
    ];
    for (seed, (format, scheme)) in all.into_iter().enumerate() {
        let scenario = traffic::Scenario { seed: 100 + seed as u64, ..scenario(scheme) };
        let logs = place.path("logs").join(format.name());
        fs::create_dir(&logs).unwrap();
        model::write(&scenario, format, 500, logs, &place.path("labels.csv")).unwrap();
        expected += traffic::generate(&scenario).requests.len();
        entries.push(entry(scheme));
    }
    configure(&place, &entries.join("\n[[session]]\n"), "");
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&summary["rows"]["read"], &summary["rows"]["rejected"]), (&json!(expected), &json!(0)));
    let kinds = place.query("SELECT format, COUNT(*) AS objects FROM objects GROUP BY format ORDER BY format");
    let kinds: Vec<&str> = kinds.iter().map(|row| row["format"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["parquet", "realtime", "standard", "standard-json"]);
    let schemes = place.query("SELECT scheme, COUNT(DISTINCT session_id) AS sessions FROM credentials GROUP BY scheme");
    let sessions = |row: &Value| row["sessions"].as_i64().unwrap();
    assert_eq!(schemes.len(), 7, "two entries are jwt: {schemes:?}");
    assert!(schemes.iter().all(|row| sessions(row) == if row["scheme"] == "jwt" { 48 } else { 24 }), "{schemes:?}");
}

/// The request as WAF sees it.
fn web_request(request: &model::request::Request) -> WebRequest {
    let mut headers = vec![("Host".to_owned(), model::request::HOST.to_owned())];
    headers.extend(request.agent.as_ref().map(|agent| ("User-Agent".to_owned(), agent.to_string())));
    if let Some(grant) = &request.grant {
        headers.extend(grant.cookies.clone().map(|cookies| ("Cookie".to_owned(), cookies)));
        headers.extend(grant.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    }
    WebRequest { path: request.full_path(), query: request.full_query(), headers }
}

/// Every request of a blocked session is blocked, and none of any other, by WAF's documented matching.
#[tokio::test]
async fn just_the_requests_of_blocked_sessions_are_blocked_under_every_scheme() {
    let server = AwsServer::start();
    let client = waf(&server);
    for scheme in schemes().iter().copied() {
        let scenario = traffic::Scenario { sessions: 40, pirates: 8, ..scenario(scheme) };
        let place = place(&scenario, Format::Realtime).with_env(server.env());
        let id = make_group(&client, 100).await;
        configure(&place, entry(scheme), &waf_config(&id));
        let summary = place.json(0, &["run", "--output", "json"]);
        let group = read_group(&client, &id).await;
        client_deletes(&client, &id).await;
        let blocked: BTreeSet<String> = place
            .query("SELECT session_id FROM active_revocations")
            .iter()
            .map(|row| row["session_id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(blocked.len(), 8, "{}: {summary}", scheme.name());
        let costs: u64 = group.rules.iter().map(wcu).sum();
        assert_eq!(summary["waf"]["wcu"], costs, "{}", scheme.name());
        let mut seen = 0;
        for request in traffic::generate(&scenario).requests {
            let session = request.grant.as_ref().map(|grant| grant.session_id.as_str());
            let expected = session.is_some_and(|session| blocked.contains(session));
            let sent = web_request(&request);
            assert_eq!(blocks(&group.rules, &sent), expected, "{} {sent:?}", scheme.name());
            seen += usize::from(expected);
        }
        assert!(seen > 500, "{}: {seen}", scheme.name());
    }
}

async fn client_deletes(client: &aws_sdk_wafv2::Client, id: &str) {
    use aws_sdk_wafv2::types::Scope;
    let lock = client.get_rule_group().name("guard").scope(Scope::Cloudfront).id(id).send().await.unwrap().lock_token;
    let delete = client.delete_rule_group().name("guard").scope(Scope::Cloudfront).id(id);
    delete.lock_token(lock.unwrap()).send().await.unwrap();
}

/// A refreshed token is another credential of the same session: known ones are blocked, new ones as they appear.
#[test]
fn refreshed_tokens_are_blocked_as_they_appear() {
    let place = Place::new("");
    configure(&place, "scheme = 'jwt'\nquery = 'token'\nclaim = 'sid'", "");
    let log = |name: &str, minute, signature| place.write_refreshed(name, minute, signature);
    let patterns = || {
        let plan = place.json(0, &["waf", "plan", "--output", "json"]);
        let rules = plan["rules"].as_array().unwrap().iter();
        rules.map(|rule| format!("{} {}", rule["component"], rule["pattern"])).collect::<Vec<_>>()
    };
    // So many characters of a signature that consists of hexadecimal digits.
    let rule = |letters: &[&str]| {
        let pieces: Vec<String> = letters.iter().map(|letter| letter.repeat(22)).collect();
        let pieces = if pieces.len() > 1 { format!("(?:{})", pieces.join("|")) } else { pieces.concat() };
        let pattern = json!(format!(r"(?:\.|%2[Ee]){pieces}[^./%]*$"));
        format!("\"token in query:token\" {pattern}")
    };
    log("E1.2026-11-20-20.a.log", 10, 'a');
    assert_eq!(place.json(0, &["run", "--output", "json"])["revoked"], 1);
    assert_eq!(patterns(), [rule(&["a"])]);
    log("E1.2026-11-20-20.b.log", 20, 'b');
    place.json(0, &["run", "--output", "json"]);
    assert_eq!(patterns(), [rule(&["a", "b"])]);
}

/// Counts per session, network, country and user agent, by DuckDB from the same files.
fn counts_agree(format: Format, read: &str, column: impl Fn(&str) -> String) {
    let scenario = scenario(Scheme::SecureMediaDelivery { bound: true });
    let place = place(&scenario, format);
    let files = match format {
        Format::Parquet => "*.parquet",
        _ => "*.gz",
    };
    let from = read.replace("FILES", &format!("'{}/**/{files}'", place.path("logs").display()));
    place.json(0, &["run", "--output", "json"]);
    // IPv6 addresses come in several spellings, which DuckDB does not fold: they are compared as one.
    let sql = format!(
        "SELECT split_part(substr({stem}, 2), '.', 1) AS session, \
         CASE WHEN {ip} LIKE '%:%' THEN 'v6' ELSE {ip} END AS network, {country} AS country, \
         url_decode({agent}) AS user_agent, COUNT(*) AS requests \
         FROM {from} WHERE {status} IN ('200', '206') AND {response} <> 'Error' \
         AND regexp_matches({stem}, '^/[A-Za-z0-9_-]{{6,200}}\\.[^/.]+\\.[^/.]+\\.[^/.]+/') \
         GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
        stem = column("cs-uri-stem"),
        ip = column("c-ip"),
        country = column("c-country"),
        agent = column("cs(User-Agent)"),
        status = column("sc-status"),
        response = column("x-edge-response-result-type"),
    );
    let theirs = duckdb(&sql, &place.path("logs"), &json!({}));
    let country = if column("c-country") == "'none'" { "'none'" } else { "country" };
    let ours = place.query(&format!(
        "SELECT session_id AS session, CASE WHEN network LIKE '%:%' THEN 'v6' ELSE network END AS network, \
         {country} AS country, user_agent, COUNT(*) AS requests FROM requests WHERE accepted AND session_id IS NOT NULL \
         GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
    ));
    let texts = |rows: &[Value]| rows.iter().map(Value::to_string).collect::<BTreeSet<_>>();
    assert!(theirs.len() > 50, "{}", theirs.len());
    assert_eq!(texts(&theirs), texts(&ours), "{}", format.name());
}

#[test]
fn duckdb_counts_the_same_in_legacy_logs() {
    let read = "read_csv(FILES, delim = '\\t', header = false, quote = '', escape = '', comment = '#', all_varchar = true, \
                null_padding = true, ignore_errors = false)";
    let column = |name: &str| match name {
        "cs-uri-stem" => "column07".to_owned(),
        "c-ip" => "column04".to_owned(),
        "cs(User-Agent)" => "column10".to_owned(),
        "sc-status" => "column08".to_owned(),
        "x-edge-response-result-type" => "column22".to_owned(),
        _ => "'none'".to_owned(),
    };
    counts_agree(Format::Standard, read, column);
}

#[test]
fn duckdb_counts_the_same_in_json_logs() {
    counts_agree(Format::Json, "read_json(FILES, format = 'newline_delimited')", |name| {
        format!("CAST(\"{name}\" AS VARCHAR)")
    });
}

#[test]
fn duckdb_counts_the_same_in_parquet_logs() {
    counts_agree(Format::Parquet, "read_parquet(FILES)", |name| {
        name.replace(['-', '('], "_").replace(')', "").to_lowercase()
    });
}

/// The folder of real log files, which are not ours to commit.
fn samples() -> Option<PathBuf> {
    let named = std::env::var_os("STREAMWARDEN_SAMPLES").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/samples");
    let found = named.into_iter().chain([beside, "/work/shared/samples".into()]).find(|folder| folder.is_dir());
    if found.is_none() {
        eprintln!("not checked: no folder of real log files; STREAMWARDEN_SAMPLES names one");
    }
    found
}

#[test]
fn real_log_files_are_read_to_their_last_line() {
    let Some(samples) = samples() else { return };
    let place = Place::with_logs(samples.to_str().unwrap(), "");
    // 3: their README is no log, and is quarantined.
    let summary = place.json(3, &["run", "--output", "json"]);
    assert_eq!((&summary["rows"]["rejected"], &summary["objects"]["quarantined"]), (&json!(0), &json!(1)), "{summary}");
    let file = |row: &Value| row["key"].as_str().unwrap().to_owned();
    let rows: BTreeMap<String, (i64, String)> = place
        .query("SELECT key, rows, format FROM objects WHERE status = 'ingested'")
        .iter()
        .map(|row| (file(row), (row["rows"].as_i64().unwrap(), row["format"].as_str().unwrap().to_owned())))
        .collect();
    let lines = |name: &str| {
        let text = fs::read_to_string(samples.join(name)).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).count() as i64
    };
    let expected = [
        ("realtime-40-fields-2020.log", lines("realtime-40-fields-2020.log"), "realtime"),
        ("v1-12-columns-2011-100k.log.gz", 100_000, "standard"),
        ("v1-24-columns-2014.log", lines("v1-24-columns-2014.log"), "standard"),
        ("v1-33-columns-2019.log", lines("v1-33-columns-2019.log"), "standard"),
        ("v1-33-columns-2020.log.gz", 2, "standard"),
        ("v1-33-columns-2023.log.gz", 2, "standard"),
    ];
    for (name, count, format) in expected {
        assert_eq!(rows[name], (count, format.to_owned()), "{name}");
    }
    let spot = |name: &str, columns: &str| {
        let sql =
            format!("SELECT {columns} FROM requests WHERE object LIKE '%/{name}%' ORDER BY time, request_id LIMIT 1");
        place.query(&sql).remove(0)
    };
    assert_eq!(
        spot("realtime", "time, ip, host, path, country, status, bytes, user_agent, referer_host"),
        json!({"time": "2020-12-07T20:52:01.541Z", "ip": "127.0.0.1", "host": "test.cloudfront.net", "path": "/i", "country": "US",
            "status": 200, "bytes": 485, "referer_host": "localhost",
            "user_agent": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:83.0) Gecko/20100101 Firefox/83.0"})
    );
    assert_eq!(
        spot("v1-12", "time, edge, ip, path, referer_host, device"),
        json!({"time": "2011-04-27T22:55:23Z", "edge": "FRA2", "ip": "46.118.100.87", "path": "/yQAPXEomw-T.png",
            "referer_host": "imgscalr.com", "device": "linux"})
    );
    // User agents of that time are escaped twice.
    assert_eq!(
        spot("v1-33-columns-2019", "user_agent, device"),
        json!({"device": "windows",
            "user_agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/78.0.3904.108 Safari/537.36"})
    );
    assert_eq!(
        spot("v1-33-columns-2023", "ip, host, bytes, kind"),
        json!({"ip": "13.231.15.129", "host": "d3u2vxofoa42t1.cloudfront.net", "bytes": 27_113, "kind": "other"})
    );
}

/// Real records carry no header: the config names their fields, and they may follow each other without line ends.
#[test]
fn real_realtime_records_are_read_by_the_fields_of_the_config() {
    let Some(samples) = samples() else { return };
    let text = fs::read_to_string(samples.join("realtime-40-fields-2020.log")).unwrap();
    let names = text.lines().find_map(|line| line.strip_prefix("#Fields: ")).unwrap().split(' ').collect::<Vec<_>>();
    let records: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for joined in [records.join("\n"), records.join("\n") + "\n", records.concat().repeat(3)] {
        let place = Place::new("");
        let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
        let told = format!("location = \"logs\"\nformat = \"realtime\"\nfields = {}", quoted(&names));
        fs::write(place.path("streamwarden.toml"), config.replace("location = \"logs\"", &told)).unwrap();
        fs::write(place.path("logs/rt-1-2020-12-07-20-52-01-a"), &joined).unwrap();
        let replayed = place.json(0, &["replay", "--output", "json"]);
        let expected = joined.matches("GET\thttp").count();
        assert!(expected >= records.len());
        assert_eq!(replayed["rows"], expected);
    }
}

/// A key is good for one viewer: a leaked one shows as refusals (status 500) from elsewhere, which are reported and
/// block nobody.
#[test]
fn a_leaked_stream_key_is_reported_and_blocks_nobody() {
    let scenario = traffic::Scenario { seed: 5, sessions: 40, pirates: 0, grey: 0, ..scenario(Scheme::StreamKey) };
    let framed: BTreeSet<String> = traffic::generate(&scenario)
        .labels
        .into_iter()
        .filter(|label| label.kind == model::kinds::Kind::FramedVictim)
        .map(|label| label.session_id)
        .collect();
    assert!(!framed.is_empty());
    let place = place(&scenario, Format::Realtime);
    let replayed = place.json(0, &["replay", "--output", "json"]);
    let found: BTreeSet<String> = replayed["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["detector"] == "leaked_token")
        .map(|finding| finding["session_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(found, framed);
    assert_eq!(replayed["revocations"], json!([]));
}

/// Two schemes at once: requests that merely name the id of a bound session neither save nor harm it.
#[test]
fn an_unbound_id_that_is_anothers_bound_one_changes_nothing() {
    let named = |session: &str, time: &str, network: usize| {
        format!(
            "2026-11-20\t{time}\tFRA2\t50000\t203.0.113.{network}\tGET\td1.cloudfront.net\t/live/a/720p/s{network}.ts\t200\t-\tPlayer/{network}\tCMCD=sid%253D%2522{session}%2522\t-\tHit\t{session}-{network}\n"
        )
    };
    let place = Place::new("");
    configure(&place, "scheme = 'secure-media-delivery'\n[[session]]\nscheme = 'cmcd'", "");
    // A pirate names his own session once without its token; a victim's is named from everywhere.
    let mut lines = crate::support::shared("PirateSess01", 20, 10, 12);
    lines.push(named("PirateSess01", "20:11:00", 1));
    lines.push(crate::support::line("19:10:00", "198.18.9.9", "VictimSess01", 1, 200, "Player/1"));
    lines.extend(
        (1..60).flat_map(|network| (0..4).map(move |n| named("VictimSess01", &format!("20:1{n}:00"), network))),
    );
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    place.json(0, &["run", "--output", "json"]);
    let blocked = place.query("SELECT session_id FROM active_revocations");
    assert_eq!(blocked, [json!({"session_id": "PirateSess01"})]);
}
