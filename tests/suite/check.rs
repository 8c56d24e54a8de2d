//! `check` says what the logs show and what they lack.

use std::fs;

use aws_sdk_wafv2::types::Scope;
use serde_json::{Value, json};

use crate::aws::{foreign_rule, make_group, s3, waf};
use crate::formats::{configure, entry, place, scenario};
use crate::model::format::Format;
use crate::model::token::Scheme;
use crate::support::servers::AwsServer;
use crate::support::{Place, fixtures};

fn notices(checked: &Value) -> String {
    let notices = checked["notices"].as_array().unwrap().iter();
    notices.map(|notice| notice["what"].as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn formats_fields_and_shares() {
    let place = Place::with_fixtures("");
    let checked = place.json(0, &["check", "--output", "json"]);
    assert_eq!(checked["logs"][0]["formats"], json!({"standard": 10}));
    assert_eq!(checked["logs"][0]["objects"], 35);
    assert_eq!(checked["logs"][0]["fields"].as_array().unwrap().len(), 33);
    assert_eq!(checked["schemes"].as_array().unwrap().len(), 1);
    let scheme = &checked["schemes"][0];
    assert_eq!((&scheme["scheme"], &scheme["configured"]), (&json!("secure-media-delivery"), &json!(true)));
    assert!(scheme["share"].as_f64().unwrap() > 0.9 && scheme["bound"] == scheme["requests"]);
    assert_eq!(notices(&checked), "");
    assert!(!place.path("state").exists(), "a check writes nothing");
    let text = place.run(&["check"]);
    assert!(text.code == 0 && text.stdout.contains("Nothing is missing"), "{text:?}");
}

#[test]
fn each_lack_is_said_with_its_mend() {
    let at = |scheme: Scheme, format: Format| place(&scenario(scheme), format);
    let said = |place: &Place, code: i32, parts: &[&str]| {
        let checked = place.json(code, &["check", "--output", "json"]);
        for part in parts {
            assert!(notices(&checked).contains(part), "{part:?} is not in {checked}");
        }
    };
    // Cookie logging is off, and what else the logs could give.
    let off = at(Scheme::SignedUrl, Format::Standard);
    configure(&off, entry(Scheme::JwtCookie), "");
    said(&off, 3, &["cookie logging seems to be off", "under the scheme signed-url, which is not in the config"]);
    // The same is said by a run.
    let run = off.run(&["run"]);
    assert!(run.stderr.contains("cookie logging seems to be off"), "{run:?}");
    // Standard logs hold no headers.
    let headers = at(Scheme::SecureMediaDelivery { bound: true }, Format::Json);
    configure(&headers, entry(Scheme::StreamKey), "");
    said(&headers, 3, &["no request shows its headers", "none of"]);
    // Ids that the viewer chooses, signatures that stand in for ids.
    let guard = |place: &Place| {
        let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
        let careful = config.replace("enforce_unbound = true\nenforce_derived = true\n", "");
        fs::write(place.path("streamwarden.toml"), careful).unwrap();
    };
    let unbound = at(Scheme::CmcdQuery, Format::Parquet);
    guard(&unbound);
    said(&unbound, 0, &["session id that the viewer can choose"]);
    let derived = at(Scheme::SignedCookie, Format::Plain);
    guard(&derived);
    said(&derived, 0, &["have no session id", "key of the scheme signed-cookie is used from"]);
    // No country anywhere.
    let nowhere = at(Scheme::SecureMediaDelivery { bound: true }, Format::Standard);
    let config = fs::read_to_string(nowhere.path("streamwarden.toml")).unwrap();
    let config: Vec<&str> = config.lines().filter(|line| !line.contains(".mmdb")).collect();
    fs::write(nowhere.path("streamwarden.toml"), config.join("\n")).unwrap();
    said(&nowhere, 0, &["no request has a country", "no request has an autonomous system"]);
    // The same logs with the column need no GeoIP file.
    let somewhere = at(Scheme::SecureMediaDelivery { bound: true }, Format::W3c);
    fs::write(somewhere.path("streamwarden.toml"), config.join("\n")).unwrap();
    assert_eq!(notices(&somewhere.json(0, &["check", "--output", "json"])), "");
}

#[test]
fn sampled_real_time_logs_and_fields_in_the_wrong_order() {
    let place = place(&scenario(Scheme::SecureMediaDelivery { bound: true }), Format::Realtime);
    assert_eq!(notices(&place.json(0, &["check", "--output", "json"])), "");
    // Every other record, as a sampling rate of 50 would leave them.
    for entry in walk(&place.path("logs")) {
        let packed = fs::read(&entry).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(packed.as_slice()), &mut text).unwrap();
        let kept: Vec<&str> =
            text.lines().enumerate().filter(|(n, _)| (n * 7 + n / 5) % 2 == 0).map(|(_, line)| line).collect();
        crate::support::write_gzip(&entry, &kept.join("\n"));
    }
    let checked = place.json(3, &["check", "--output", "json"]);
    assert!(notices(&checked).contains("% of the segments that viewers watch in a row are logged"), "{checked}");

    let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    let swapped = config.replace("'sc-status', 'sc-bytes'", "'sc-bytes', 'sc-status'");
    assert_ne!(config, swapped);
    fs::write(place.path("streamwarden.toml"), swapped).unwrap();
    let checked = place.json(3, &["check", "--output", "json"]);
    assert!(notices(&checked).contains("not in the order in which CloudFront writes them"), "{checked}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// What was tried, by what it is about: its outcome and what to do.
fn tried(checked: &Value, what: &str) -> (String, String) {
    let trial =
        checked["tried"].as_array().unwrap().iter().find(|trial| trial["what"].as_str().unwrap().starts_with(what));
    let trial = trial.unwrap_or_else(|| panic!("{what} was not tried: {checked}"));
    let text = format!("{} {}", trial["detail"].as_str().unwrap(), trial["mend"].as_str().unwrap_or_default());
    (trial["outcome"].as_str().unwrap().to_owned(), text)
}

#[test]
fn everything_is_tried_and_nothing_changed() {
    let aws = AwsServer::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = waf(&aws);
    let group = runtime.block_on(async {
        for bucket in ["logs", "state"] {
            s3(&aws).create_bucket().bucket(bucket).send().await.unwrap();
        }
        let object = fs::read_dir(fixtures().join("standard")).unwrap().next().unwrap().unwrap();
        let put = s3(&aws).put_object().bucket("logs").key(object.file_name().to_str().unwrap());
        put.body(fs::read(object.path()).unwrap().into()).send().await.unwrap();
        make_group(&client, 100).await
    });
    let place =
        Place::with_logs("s3://logs/", &format!("[waf]\nname = \"guard\"\nid = \"{group}\"\n")).with_env(aws.env());
    let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    fs::write(place.path("streamwarden.toml"), config.replace("\"state\"", "\"s3://state/prod\"")).unwrap();
    aws.forget_calls();
    let checked = place.json(0, &["check", "--output", "json"]);
    for what in [
        "state s3://state/prod",
        "waf guard: read",
        "waf guard: cost",
        "waf guard: update",
        "detectors",
        "logs s3://logs",
    ] {
        assert_eq!(tried(&checked, what).0, "good", "{what}: {checked}");
    }
    assert_eq!(checked["config"]["guard"]["max_share"], 0.02, "defaults are shown");
    let changes = ["PutObject", "DeleteObject", "UpdateRuleGroup", "Publish"];
    let calls = aws.calls();
    let changed: Vec<_> =
        calls.iter().filter(|call| changes.contains(&call.operation.as_str()) && call.status < 300).collect();
    assert!(changed.is_empty(), "{changed:?}");
    assert!(calls.iter().any(|call| call.operation == "UpdateRuleGroup" && call.status == 400), "{calls:?}");

    // The same once there is a state, and rules.
    assert_eq!(place.run(&["run"]).code, 0);
    assert_eq!(tried(&place.json(0, &["check", "--output", "json"]), "state").0, "good");

    for (operation, error, what, mend) in [
        ("PutObject", "AccessDenied", "state", "grant s3:PutObject"),
        ("UpdateRuleGroup", "AccessDeniedException", "waf guard: update", "grant wafv2:UpdateRuleGroup"),
        ("CheckCapacity", "AccessDeniedException", "waf guard: cost", "grant wafv2:CheckCapacity"),
        ("GetRuleGroup", "AccessDeniedException", "waf guard: read", "grant wafv2:GetRuleGroup"),
        ("ListObjectsV2", "AccessDenied", "logs", "grant s3:ListBucket"),
    ] {
        aws.fail_next(operation, 1, error, 403);
        let checked = place.run(&["check", "--output", "json"]);
        assert_eq!(checked.code, 1, "{operation}: {checked:?}");
        let (outcome, text) = tried(&serde_json::from_str(&checked.stdout).unwrap(), what);
        assert!(outcome == "failed" && text.contains(mend), "{operation}: {outcome} {text}");
    }

    // Another program rewrites the group.
    runtime.block_on(async {
        let read = client.get_rule_group().name("guard").id(&group).scope(Scope::Cloudfront).send().await.unwrap();
        let mut rule = foreign_rule("0123456789abcdef", 7);
        rule.visibility_config.as_mut().unwrap().metric_name = "Example".into();
        let update = client.update_rule_group().name("guard").id(&group).scope(Scope::Cloudfront).rules(rule);
        let update = update.visibility_config(read.rule_group().unwrap().visibility_config().unwrap().clone());
        update.lock_token(read.lock_token().unwrap()).send().await.unwrap();
    });
    let (outcome, text) = tried(&place.json(3, &["check", "--output", "json"]), "waf guard: read");
    assert!(outcome == "problem" && text.contains("a rule group of its own"), "{text}");
}

#[test]
fn a_state_that_cannot_be_written_is_found_out() {
    let place = Place::with_fixtures("");
    fs::write(place.path("state"), "a file where the folder should be").unwrap();
    let checked = place.run(&["check", "--output", "json"]);
    assert_eq!(checked.code, 1, "{checked:?}");
    assert_eq!(tried(&serde_json::from_str(&checked.stdout).unwrap(), "state").0, "failed");
}
