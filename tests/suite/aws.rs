//! S3 and WAF, on a server that is as strict as AWS documents its own to be.

use std::collections::BTreeSet;
use std::process::Command;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_wafv2::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_wafv2::types::{
    AllowAction, ByteMatchStatement, FieldToMatch, PositionalConstraint, Rule, RuleAction, Scope, Statement,
    TextTransformation, TextTransformationType, UriPath, VisibilityConfig,
};
use aws_sdk_wafv2::{Client, primitives::Blob};

use crate::support::servers::{self, AwsServer};
use crate::support::waf::{WebRequest, matching};
use crate::support::{Place, fixtures, shared, token};

/// A client of the tests' own, for what the program does not do: making groups and rules of others.
pub fn waf(server: &AwsServer) -> Client {
    let config = aws_sdk_wafv2::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(server.url())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
        .build();
    Client::from_conf(config)
}

pub fn s3(server: &AwsServer) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(server.url())
        .force_path_style(true)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

fn visibility(metric: &str) -> VisibilityConfig {
    VisibilityConfig::builder()
        .sampled_requests_enabled(false)
        .cloud_watch_metrics_enabled(false)
        .metric_name(metric)
        .build()
        .unwrap()
}

/// Makes a rule group and gives its id.
pub async fn make_group(client: &Client, capacity: i64) -> String {
    let made = client
        .create_rule_group()
        .name("guard")
        .scope(Scope::Cloudfront)
        .capacity(capacity)
        .description("Revoked sessions")
        .visibility_config(visibility("guard"))
        .send()
        .await
        .unwrap();
    made.summary.unwrap().id.unwrap()
}

/// A rule that somebody else has put into the group.
pub fn foreign_rule(name: &str, priority: i32) -> Rule {
    let statement = ByteMatchStatement::builder()
        .search_string(Blob::new("/health"))
        .field_to_match(FieldToMatch::builder().uri_path(UriPath::builder().build()).build())
        .text_transformations(
            TextTransformation::builder().priority(0).r#type(TextTransformationType::None).build().unwrap(),
        )
        .positional_constraint(PositionalConstraint::Exactly)
        .build()
        .unwrap();
    Rule::builder()
        .name(name)
        .priority(priority)
        .statement(Statement::builder().byte_match_statement(statement).build())
        .action(RuleAction::builder().allow(AllowAction::builder().build()).build())
        .visibility_config(visibility(name))
        .build()
        .unwrap()
}

pub struct Group {
    pub rules: Vec<Rule>,
    description: Option<String>,
}

pub async fn read_group(client: &Client, id: &str) -> Group {
    let group =
        client.get_rule_group().name("guard").scope(Scope::Cloudfront).id(id).send().await.unwrap().rule_group.unwrap();
    Group { rules: group.rules.unwrap_or_default(), description: group.description }
}

pub async fn put_rules(client: &Client, id: &str, rules: Vec<Rule>) {
    let lock =
        client.get_rule_group().name("guard").scope(Scope::Cloudfront).id(id).send().await.unwrap().lock_token.unwrap();
    client
        .update_rule_group()
        .name("guard")
        .scope(Scope::Cloudfront)
        .id(id)
        .set_rules(Some(rules))
        .description("Revoked sessions")
        .visibility_config(visibility("guard"))
        .lock_token(lock)
        .send()
        .await
        .unwrap();
}

/// The sessions of the place that our rules match, by what WAF does with a request of theirs.
pub fn matched(place: &Place, rules: &[Rule]) -> BTreeSet<String> {
    let sessions = place
        .query("SELECT session_id FROM activity WHERE session_id IS NOT NULL UNION SELECT session_id FROM revocations");
    let ours: Vec<Rule> = rules.iter().filter(|rule| rule.name().starts_with("streamwarden-")).cloned().collect();
    let sessions = sessions.iter().map(|row| row["session_id"].as_str().unwrap().to_owned());
    sessions.filter(|id| matching(&ours, &request_of(id)).is_some()).collect()
}

/// A request of a Secure Media Delivery session.
pub fn request_of(session: &str) -> WebRequest {
    WebRequest { path: format!("/{}/live/a.m3u8", token(session)), ..WebRequest::default() }
}

pub fn operations(server: &AwsServer, service: &str) -> Vec<String> {
    server.calls().into_iter().filter(|call| call.service == service).map(|call| call.operation).collect()
}

pub fn waf_config(id: &str) -> String {
    format!("[waf]\nname = \"guard\"\nid = \"{id}\"")
}

#[test]
fn the_server_refuses_what_aws_refuses() {
    let script = fixtures().join("../tests/servers/test_strict_moto.py");
    let output = Command::new(servers::python()).arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn logs_from_s3_become_rules_that_hold_just_the_found_sessions_until_they_expire() {
    let server = AwsServer::start();
    let (s3, waf) = (s3(&server), waf(&server));
    let id = make_group(&waf, 5_000).await;
    s3.create_bucket().bucket("logs").send().await.unwrap();
    for object in std::fs::read_dir(fixtures().join("standard")).unwrap() {
        let path = object.unwrap().path();
        let key = format!("cdn/{}", path.file_name().unwrap().to_str().unwrap());
        s3.put_object().bucket("logs").key(key).body(ByteStream::from_path(&path).await.unwrap()).send().await.unwrap();
    }
    // A folder's marker is no log object.
    s3.put_object().bucket("logs").key("cdn/").send().await.unwrap();
    let place = Place::with_logs("s3://logs/cdn/", &waf_config(&id)).with_env(server.env());

    let first = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&first["objects"]["ingested"], &first["waf"]["changed"]), (&35.into(), &true.into()), "{first}");
    let active = place.query("SELECT session_id FROM active_revocations");
    let active: BTreeSet<String> = active.iter().map(|row| row["session_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(active.len(), 8);
    let group = read_group(&waf, &id).await;
    assert_eq!(matched(&place, &group.rules), active);
    assert_eq!(group.description.as_deref(), Some("Revoked sessions"), "an update keeps what is not ours");
    let fetched: Vec<_> = server.calls().into_iter().filter(|call| call.operation == "GetObject").collect();
    assert_eq!(fetched.len(), 35, "each object is fetched once");

    // Nothing new: one listing, one read.
    server.forget_calls();
    let second = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&second["objects"]["listed"], &second["waf"]["changed"]), (&35.into(), &false.into()));
    assert_eq!(operations(&server, "wafv2"), ["GetRuleGroup"]);
    assert_eq!(operations(&server, "s3"), ["ListObjectsV2"]);

    // After their expiry the group is emptied, by a run that finds no log at all.
    let later = place.json(0, &["run", "--output", "json", "--now", "2026-11-20T22:00:01Z"]);
    assert_eq!(
        (&later["expired"], &later["waf"]["changed"], &later["waf"]["sessions"]),
        (&8.into(), &true.into(), &0.into())
    );
    assert!(read_group(&waf, &id).await.rules.is_empty());
    let history = place.run(&["history", "--now", "2026-11-20T22:00:01Z", "--output", "json"]);
    assert_eq!(history.stdout.matches("\"expired\"").count(), 8);
}

#[tokio::test]
async fn plan_shows_and_sends_nothing_sync_sends_and_show_reads() {
    let server = AwsServer::start();
    let waf = waf(&server);
    let id = make_group(&waf, 100).await;
    let place = Place::new("").with_env(server.env());
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    place.json(0, &["run", "--output", "json"]);
    place.configure("logs", &waf_config(&id));

    let plan = place.json(0, &["waf", "plan", "--output", "json"]);
    assert_eq!((&plan["changed"], &plan["sessions"], &plan["capacity"]), (&true.into(), &1.into(), &100.into()));
    assert_eq!(plan["rules"][0]["pattern"], "/SharedSess01.");
    assert!(read_group(&waf, &id).await.rules.is_empty());

    assert_eq!(place.json(0, &["waf", "sync", "--output", "json"])["changed"], true);
    assert_eq!(place.json(0, &["waf", "sync", "--output", "json"])["changed"], false);
    assert_eq!(place.json(0, &["waf", "plan", "--output", "json"])["changed"], false);
    let shown = place.json(0, &["waf", "show", "--output", "json"]);
    assert_eq!(
        (&shown["rules"][0]["pattern"], &shown["rules"][0]["action"]),
        (&"/SharedSess01.".into(), &"block".into())
    );
    assert!(place.run(&["waf", "show"]).stdout.contains("/SharedSess01."));
}

#[tokio::test]
async fn rules_of_others_are_left_alone_and_use_up_room() {
    let server = AwsServer::start();
    let waf = waf(&server);
    let id = make_group(&waf, 10).await;
    let theirs = vec![foreign_rule("allow-health", 5), foreign_rule("zz-last", 900)];
    put_rules(&waf, &id, theirs.clone()).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    assert_eq!(place.json(0, &["run", "--output", "json"])["waf"]["sessions"], 1);
    let rules = read_group(&waf, &id).await.rules;
    assert_eq!(rules[..2], theirs);
    assert_eq!(matched(&place, &rules).len(), 1);
    // Emptied of ours, theirs are still there.
    place.json(0, &["run", "--output", "json", "--now", "2026-11-20T23:00:00Z"]);
    assert_eq!(read_group(&waf, &id).await.rules, theirs);
}

#[tokio::test]
async fn what_does_not_fit_is_kept_and_said() {
    let server = AwsServer::start();
    let waf = waf(&server);
    let id = make_group(&waf, 3).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    let lines: Vec<String> =
        (b'a'..b'u').flat_map(|letter| shared(&format!("{}SharedSess00", letter as char), 20, 10, 10)).collect();
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    let summary = place.json(3, &["run", "--output", "json"]);
    assert_eq!(summary["revoked"], 20);
    let (fit, left_out) = (summary["waf"]["sessions"].as_u64().unwrap(), summary["waf"]["left_out"].as_u64().unwrap());
    assert_eq!(fit + left_out, 20);
    assert!(left_out > 0 && summary["alarms"][0].as_str().unwrap().contains("do not fit"), "{summary}");
    assert_eq!(matched(&place, &read_group(&waf, &id).await.rules).len() as u64, fit);
    assert_eq!(place.query("SELECT session_id FROM active_revocations").len(), 20, "none is lost from the history");
}

#[tokio::test]
async fn a_conflict_is_read_again_and_a_busy_waf_is_tried_again() {
    let server = AwsServer::start();
    let waf = waf(&server);
    let id = make_group(&waf, 100).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    server.fail_next("UpdateRuleGroup", 2, "WAFOptimisticLockException", 400);
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!(summary["waf"]["changed"], true);
    let calls = operations(&server, "wafv2");
    let after_creation: Vec<&str> = calls.iter().map(String::as_str).skip(1).collect();
    let round = ["GetRuleGroup", "CheckCapacity", "UpdateRuleGroup"];
    let expected = [&round[..], &round[..], &round[..], &["GetRuleGroup"]].concat();
    assert_eq!(
        after_creation, expected,
        "each conflict is followed by a new reading, the update by one that looks whether it is there"
    );
    assert_eq!(matched(&place, &read_group(&waf, &id).await.rules).len(), 1);

    server.fail_next("UpdateRuleGroup", 1, "ThrottlingException", 400);
    let expired = place.json(0, &["run", "--output", "json", "--now", "2026-11-20T23:00:00Z"]);
    assert_eq!(expired["waf"]["changed"], true);
}

#[tokio::test]
async fn a_waf_that_refuses_fails_the_run_but_loses_nothing() {
    let server = AwsServer::start();
    let place = Place::new(&waf_config("00000000-0000-4000-8000-000000000000")).with_env(server.env());
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    let output = place.run(&["run"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("there is no group guard with the id"), "{output:?}");
    assert!(output.stdout.contains("NOT IN STEP") && output.stdout.contains("FAILED"), "{output:?}");
    let summary = place.json(1, &["run", "--output", "json"]);
    assert_eq!(
        (&summary["waf"]["sessions"], &summary["waf"]["capacity"]),
        (&0.into(), &0.into()),
        "nothing is known of it"
    );
    assert!(summary["alarms"][0].as_str().unwrap().contains("there is no group"), "{summary}");
    assert_eq!(place.query("SELECT session_id FROM active_revocations").len(), 1);
    // Once the group is there, the next run brings it in step.
    let waf = waf(&server);
    let id = make_group(&waf, 100).await;
    place.configure("logs", &waf_config(&id));
    assert_eq!(place.json(0, &["run", "--output", "json"])["waf"]["changed"], true);
    assert_eq!(matched(&place, &read_group(&waf, &id).await.rules).len(), 1);
}

/// A disk on which no file can grow beyond half a kilobyte stands for a full one.
#[tokio::test]
async fn a_state_that_cannot_be_written_stops_the_run_before_waf() {
    let server = AwsServer::start();
    let waf = waf(&server);
    let id = make_group(&waf, 100).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    place.json(0, &["run", "--output", "json"]);
    place.write_log("E1.2026-11-20-20.bbbb.gz", &shared("SharedSess02", 20, 10, 12));
    server.forget_calls();
    let run = place.command(&["run"]);
    let mut full = Command::new("sh");
    full.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\""]).arg(run.get_program()).args(run.get_args());
    full.current_dir(run.get_current_dir().unwrap());
    full.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = full.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("table objects of the state at") && said.contains("File too large"), "{said}");
    assert_eq!(operations(&server, "wafv2"), [""; 0], "WAF keeps what it has");

    // With room again the run makes up for it, and nothing is there twice.
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&summary["objects"]["ingested"], &summary["revoked"]), (&1.into(), &1.into()), "{summary}");
    let requests = shared("x", 20, 10, 12).len();
    let counted =
        place.query("SELECT session_id, SUM(requests) AS n FROM activity GROUP BY session_id ORDER BY session_id");
    assert_eq!(counted.iter().map(|row| row["n"].as_u64().unwrap() as usize).collect::<Vec<_>>(), [requests; 2]);
}

/// Listed, but not there when it is fetched: that is said, and the rest counts.
#[tokio::test]
async fn an_object_that_goes_away_after_the_listing_is_set_aside() {
    let server = AwsServer::start();
    let s3 = s3(&server);
    s3.create_bucket().bucket("logs").send().await.unwrap();
    let place = Place::with_logs("s3://logs", "").with_env(server.env());
    std::fs::create_dir(place.path("logs")).unwrap();
    for (name, session) in [("aaaa", "SharedSess01"), ("bbbb", "SharedSess02")] {
        let name = format!("E1.2026-11-20-20.{name}.gz");
        place.write_log(&name, &shared(session, 20, 10, 12));
        let body = ByteStream::from_path(place.path("logs").join(&name)).await.unwrap();
        s3.put_object().bucket("logs").key(name).body(body).send().await.unwrap();
    }
    server.fail_next("GetObject", 1, "NoSuchKey", 404);
    let summary = place.json(3, &["run", "--output", "json"]);
    assert_eq!(
        (&summary["objects"]["ingested"], &summary["objects"]["quarantined"], &summary["revoked"]),
        (&1.into(), &1.into(), &1.into()),
        "{summary}"
    );
    assert!(summary["alarms"][0].as_str().unwrap().contains("deleted after it had been listed"), "{summary}");
    assert_eq!(place.json(0, &["run", "--output", "json"])["objects"]["ingested"], 0, "not tried again unasked");
    assert_eq!(
        place.json(0, &["run", "--retry-quarantined", "--output", "json"])["revoked"],
        1,
        "it was there after all"
    );

    // Replaced instead: what stands there now is read by the next run.
    let name = "E1.2026-11-20-20.cccc.gz";
    place.write_log(name, &shared("SharedSess03", 20, 10, 12));
    let body = ByteStream::from_path(place.path("logs").join(name)).await.unwrap();
    s3.put_object().bucket("logs").key(name).body(body).send().await.unwrap();
    server.fail_next("GetObject", 1, "PreconditionFailed", 412);
    assert_eq!(place.json(0, &["run", "--output", "json"])["objects"]["quarantined"], 0);
    assert_eq!(place.json(0, &["run", "--output", "json"])["revoked"], 1);
}

#[tokio::test]
async fn mode_count_counts_and_mode_observe_touches_nothing() {
    let server = AwsServer::start();
    let waf = waf(&server);
    let id = make_group(&waf, 100).await;
    let place = Place::new("").with_env(server.env());
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    place.configure("logs", &format!("{}\n[guard]\nmode = \"observe\"", waf_config(&id)));
    let observed = place.json(0, &["run", "--output", "json"]);
    assert_eq!(
        (&observed["observed"], &observed["revoked"], &observed["waf"]["changed"]),
        (&1.into(), &0.into(), &false.into())
    );

    place.write_log("E1.2026-11-20-20.bbbb.gz", &shared("SharedSess02", 20, 10, 12));
    place.configure("logs", &format!("{}\n[guard]\nmode = \"count\"", waf_config(&id)));
    assert_eq!(place.json(0, &["run", "--output", "json"])["revoked"], 1);
    let rules = read_group(&waf, &id).await.rules;
    assert!(rules[0].action().unwrap().count().is_some() && rules[0].action().unwrap().block().is_none());
    assert_eq!(matched(&place, &rules).into_iter().collect::<Vec<_>>(), ["SharedSess02"]);
}

#[tokio::test]
async fn a_listing_of_several_pages_is_read_to_its_end_and_old_objects_are_not_fetched() {
    let server = AwsServer::start();
    let s3 = s3(&server);
    s3.create_bucket().bucket("logs").send().await.unwrap();
    // Years of three deliveries: two flat ones, and one into folders of the hour.
    for n in 0..1_400 {
        let (day, hour) = (n / 24 % 28 + 1, n % 24);
        let key = match n % 3 {
            0 => format!("E1.2025-01-{day:02}-{hour:02}.{n:04}.gz"),
            1 => format!("E2.2025-01-{day:02}-{hour:02}.{n:04}.gz"),
            _ => format!("v2/year=2025/month=01/day={day:02}/hour={hour:02}/{n:04}.parquet"),
        };
        for copy in 0..3 {
            let key = format!("{key}{copy}");
            s3.put_object().bucket("logs").key(key).body(ByteStream::from_static(b"old")).send().await.unwrap();
        }
    }
    let place = Place::with_logs("s3://logs", "").with_env(server.env());
    std::fs::create_dir(place.path("logs")).unwrap();
    place.write_log("new.gz", &shared("SharedSess01", 20, 10, 12));
    let body = ByteStream::from_path(place.path("logs/new.gz")).await.unwrap();
    s3.put_object().bucket("logs").key("E1.2026-11-20-20.aaaa.gz").body(body).send().await.unwrap();
    let late = shared("SharedSess02", 5, 10, 12);
    place.write_log("late.gz", &late);
    let body = ByteStream::from_path(place.path("logs/late.gz")).await.unwrap();
    let key = "v2/year=2026/month=11/day=20/hour=05/late.gz";
    s3.put_object().bucket("logs").key(key).body(body).send().await.unwrap();
    server.forget_calls();
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&summary["objects"]["ingested"], &summary["objects"]["listed"]), (&2.into(), &2.into()));
    let calls = operations(&server, "s3");
    let lists = calls.iter().filter(|call| *call == "ListObjectsV2").count();
    // 4,202 objects are five pages; what is too old is skipped after one page of each delivery.
    assert!(lists <= 4 && calls.len() == lists + 2, "{calls:?}");
}

#[tokio::test]
async fn lowering_a_mode_lifts_what_was_blocked_by_it() {
    let server = AwsServer::start();
    let waf = waf(&server);
    let id = make_group(&waf, 100).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    place.json(0, &["run", "--output", "json"]);
    for (more, held) in [
        ("[guard]\nmode = \"off\"", 0),
        ("", 1),
        ("[guard]\nmode = \"observe\"", 0),
        ("[detectors.many_ips]\nmode = \"observe\"", 0),
        ("[detectors.many_countries]\nmode = \"off\"", 1),
    ] {
        place.configure("logs", &format!("{}\n{more}", waf_config(&id)));
        let summary = place.json(0, &["run", "--output", "json"]);
        assert_eq!(summary["waf"]["sessions"], held, "{more}");
        assert_eq!(matched(&place, &read_group(&waf, &id).await.rules).len(), held, "{more}");
    }
}

#[tokio::test]
async fn a_bucket_that_cannot_be_listed_fails_the_run_but_blocks_still_expire() {
    let server = AwsServer::start();
    let (s3, waf) = (s3(&server), waf(&server));
    let id = make_group(&waf, 100).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    place.json(0, &["run", "--output", "json"]);
    place.configure("s3://nowhere/logs", &waf_config(&id));
    let output = place.run(&["run", "--now", "2026-11-20T23:00:00Z"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("s3://nowhere/logs") && output.stderr.contains("NoSuchBucket"), "{output:?}");
    assert!(read_group(&waf, &id).await.rules.is_empty());

    // One object that may not be read is set aside, the others count.
    s3.create_bucket().bucket("nowhere").send().await.unwrap();
    for (name, session) in [("aaaa", "SharedSess03"), ("bbbb", "SharedSess04")] {
        place.write_log(&format!("E1.2026-11-20-20.{name}.gz"), &shared(session, 20, 20, 12));
        let body = ByteStream::from_path(place.path("logs").join(format!("E1.2026-11-20-20.{name}.gz"))).await.unwrap();
        s3.put_object()
            .bucket("nowhere")
            .key(format!("logs/E1.2026-11-20-20.{name}.gz"))
            .body(body)
            .send()
            .await
            .unwrap();
    }
    server.fail_next("GetObject", 1, "AccessDenied", 403);
    let summary = place.json(3, &["run", "--output", "json"]);
    assert_eq!(
        (&summary["objects"]["ingested"], &summary["objects"]["quarantined"]),
        (&1.into(), &1.into()),
        "{summary}"
    );
    let retried = place.json(0, &["run", "--retry-quarantined", "--output", "json"]);
    assert_eq!(retried["objects"]["ingested"], 1);

    // None may be read: that is a permission somebody forgot, and nothing is set aside for it.
    place.write_log("E1.2026-11-20-20.cccc.gz", &shared("SharedSess05", 20, 20, 12));
    let body = ByteStream::from_path(place.path("logs/E1.2026-11-20-20.cccc.gz")).await.unwrap();
    s3.put_object().bucket("nowhere").key("logs/E1.2026-11-20-20.cccc.gz").body(body).send().await.unwrap();
    server.fail_next("GetObject", 1, "AccessDenied", 403);
    let denied = place.json(1, &["run", "--output", "json"]);
    assert!(denied["alarms"][0].as_str().unwrap().contains("needs s3:GetObject"), "{denied}");
    assert_eq!(place.json(0, &["run", "--output", "json"])["objects"]["ingested"], 1);
}
