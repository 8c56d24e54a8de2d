//! The rule group: always right, at full capacity, and never more than what it was told to do.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use aws_sdk_wafv2::types::{CountAction, RuleAction};
use serde_json::{Value, json};

use crate::aws::{foreign_rule, make_group, matched, operations, put_rules, read_group, request_of, waf, waf_config};
use crate::support::servers::AwsServer;
use crate::support::waf::{blocks, wcu};
use crate::support::{Place, line, shared, unbound};

fn set<const N: usize>(ids: [&str; N]) -> BTreeSet<String> {
    ids.map(str::to_owned).into()
}

fn alarms(summary: &Value) -> String {
    summary["alarms"].as_array().unwrap().iter().map(|alarm| alarm.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Runs a command with a list of sessions on stdin.
fn with_list(place: &Place, arguments: &[&str], ids: &[String]) -> std::process::Output {
    let mut child = place.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(ids.join("\n").as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A hundred times in a row somebody else writes between our reading and our update.
#[tokio::test]
async fn nothing_of_a_writer_who_is_always_quicker_is_lost_and_ours_comes_in_the_end() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 5_000).await;
    let place = Place::new("").with_env(server.env());
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    place.json(0, &["run", "--output", "json"]);
    place.configure("logs", &waf_config(&id));
    server.interfere(100);
    let mut given_up = 0;
    loop {
        let started = Instant::now();
        let output = place.run(&["waf", "sync"]);
        assert!(started.elapsed() < Duration::from_secs(90), "{output:?}");
        if output.code == 0 {
            break;
        }
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stderr.contains("given up after") && output.stderr.contains("at the same time"), "{output:?}");
        given_up += 1;
        assert!(given_up < 10, "it comes to nothing");
    }
    let rules = read_group(&client, &id).await.rules;
    let theirs: Vec<&str> = rules.iter().map(|rule| rule.name()).filter(|name| name.starts_with("theirs-")).collect();
    let expected: Vec<String> = (0..100).rev().map(|number| format!("theirs-{number}")).collect();
    assert_eq!(theirs, expected, "all of them, in their order");
    assert_eq!(matched(&place, &rules), set(["SharedSess01"]));
    let updates =
        server.calls().iter().filter(|call| call.operation == "UpdateRuleGroup" && call.status == 200).count();
    assert_eq!(updates, 1);
}

#[tokio::test]
async fn what_somebody_does_to_our_rules_is_noticed_and_put_right() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 100).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    put_rules(&client, &id, vec![foreign_rule("theirs", 3)]).await;
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    place.json(0, &["run", "--output", "json"]);
    let good = read_group(&client, &id).await.rules;
    assert_eq!((good.len(), good[0].name()), (2, "theirs"));

    let taken_out = vec![good[0].clone()];
    let mut harmless = good.clone();
    harmless[1].action = Some(RuleAction::builder().count(CountAction::builder().build()).build());
    let mut other_statement = good.clone();
    other_statement[1].statement = foreign_rule("x", 0).statement;
    let mut more = good.clone();
    more.push(foreign_rule("streamwarden-enforce-0123456789abcdef", 90));
    for (what, tampered) in
        [("taken out", taken_out), ("only counts", harmless), ("matches other", other_statement), ("more", more)]
    {
        put_rules(&client, &id, tampered).await;
        let plan = place.json(3, &["waf", "plan", "--output", "json"]);
        assert!(alarms(&plan).contains("somebody else changed our rules"), "{what}: {plan}");
        let summary = place.json(3, &["run", "--output", "json"]);
        assert!(alarms(&summary).contains("somebody else changed our rules"), "{what}: {summary}");
        assert_eq!(summary["waf"]["changed"], true, "{what}");
        assert_eq!(read_group(&client, &id).await.rules, good, "{what}");
        assert_eq!(place.json(0, &["run", "--output", "json"])["waf"]["changed"], false, "{what}: once is enough");
    }
    // What others do to their own rules is their affair.
    let mut theirs = good.clone();
    theirs.insert(1, foreign_rule("theirs-too", 1));
    put_rules(&client, &id, theirs).await;
    place.json(0, &["run", "--output", "json"]);
}

#[tokio::test]
async fn a_state_that_is_lost_unblocks_nobody_until_a_person_says_so() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 100).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    place.json(0, &["run", "--output", "json"]);
    let before = read_group(&client, &id).await.rules;
    fs::remove_dir_all(place.path("state")).unwrap();
    fs::remove_file(place.path("logs/E1.2026-11-20-20.aaaa.gz")).unwrap();
    for _ in 0..2 {
        let summary = place.json(3, &["run", "--output", "json"]);
        assert!(alarms(&summary).contains("waf sync --drop-unknown"), "{summary}");
        assert_eq!(read_group(&client, &id).await.rules, before);
    }
    // New blocks come beside them.
    place.write_log("E1.2026-11-20-20.bbbb.gz", &shared("SharedSess02", 20, 10, 12));
    assert_eq!(place.json(3, &["run", "--output", "json"])["revoked"], 1);
    let both = read_group(&client, &id).await.rules;
    assert!(blocks(&both, &request_of("SharedSess01")) && blocks(&both, &request_of("SharedSess02")));
    let dropped = place.json(0, &["waf", "sync", "--drop-unknown", "--output", "json"]);
    assert_eq!((&dropped["changed"], &dropped["sessions"]), (&json!(true), &json!(1)));
    let rules = read_group(&client, &id).await.rules;
    assert!(!blocks(&rules, &request_of("SharedSess01")) && blocks(&rules, &request_of("SharedSess02")));
    assert_eq!(place.json(0, &["run", "--output", "json"])["waf"]["changed"], false);
}

/// The table of the history is gone: who is blocked stays so, and can be let go.
#[tokio::test]
async fn a_block_that_the_history_lost_stays_until_somebody_restores_it() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 100).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    place.json(0, &["run", "--output", "json"]);
    let revoke = ["revoke", "UnseenSess01", "--ttl", "2h", "--sync", "--output", "json"];
    assert_eq!(place.json(0, &revoke)["sessions"], json!(["UnseenSess01"]));
    fs::remove_dir_all(place.path("state/tables/revocations")).unwrap();
    let later = ["run", "--output", "json", "--now", "2026-11-21T05:00:00Z"];
    let summary = place.json(3, &later);
    assert!(alarms(&summary).contains("not in the history any more") && alarms(&summary).contains("UnseenSess01"));
    assert!(blocks(&read_group(&client, &id).await.rules, &request_of("UnseenSess01")));
    let restore = ["restore", "UnseenSess01", "--sync", "--now", "2026-11-21T05:01:00Z", "--output", "json"];
    assert_eq!(place.json(0, &restore)["sessions"], json!(["UnseenSess01"]));
    assert!(read_group(&client, &id).await.rules.is_empty());
}

#[tokio::test]
async fn a_block_over_its_whole_life() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 100).await;
    let config = format!(
        "{}\n[guard]\nrestore_grace = \"10m\"\n[detectors.secure_media_score]\nmode = \"off\"",
        waf_config(&id)
    );
    let place = Place::new(&config).with_env(server.env());
    let mut number = 0;
    let mut share = |hour: u32, minute: u32| {
        number += 1;
        place.write_log(&format!("E1.2026-11-20-{hour:02}.{number:04}.gz"), &shared("SharedSess01", hour, minute, 12));
    };
    // Who is shared on though blocked is an alarm as well.
    let run = |now: &str| -> Value {
        serde_json::from_str(&place.run(&["run", "--output", "json", "--now", now]).stdout).unwrap()
    };
    let expires = || place.query("SELECT event, expires_at FROM revocations ORDER BY sequence DESC LIMIT 1").remove(0);
    let is_blocked = async || blocks(&read_group(&client, &id).await.rules, &request_of("SharedSess01"));

    share(16, 10);
    assert_eq!(run("2026-11-20T16:20:00Z")["revoked"], 1);
    assert_eq!(expires()["expires_at"], "2026-11-20T17:20:00Z");
    assert!(is_blocked().await);
    // Shared on: longer, without growth.
    share(16, 40);
    assert_eq!(run("2026-11-20T16:50:00Z")["extended"], 1);
    assert_eq!(expires()["expires_at"], "2026-11-20T17:50:00Z");
    // Its time is over, in a run that finds nothing; not a moment before.
    assert_eq!(run("2026-11-20T17:49:59Z")["expired"], 0);
    assert!(is_blocked().await);
    assert_eq!(run("2026-11-20T17:50:00Z")["expired"], 1);
    assert!(!is_blocked().await);
    // Again, for twice as long.
    share(18, 10);
    assert_eq!(run("2026-11-20T18:20:00Z")["revoked"], 1);
    assert_eq!(expires()["expires_at"], "2026-11-20T20:20:00Z");
    assert!(is_blocked().await);
    // A person lets it go, and it is safe for ten minutes.
    let restore = ["restore", "SharedSess01", "--sync", "--now", "2026-11-20T18:30:00Z", "--output", "json"];
    place.json(0, &restore);
    assert!(!is_blocked().await);
    share(18, 30);
    assert_eq!(run("2026-11-20T18:38:00Z")["revoked"], 0);
    assert!(!is_blocked().await);
    share(18, 45);
    assert_eq!(run("2026-11-20T18:55:00Z")["revoked"], 1);
    assert!(is_blocked().await);
    // Allowed: lifted at once, and for as long as the entry stands.
    place.configure("logs", &format!("{config}\n[[allow]]\nsession = \"SharedSess01\"\nreason = \"monitoring\""));
    assert_eq!(run("2026-11-20T19:00:00Z")["restored"], 1);
    assert!(!is_blocked().await);
    share(19, 10);
    assert_eq!(run("2026-11-20T19:20:00Z")["revoked"], 0);
    assert!(!is_blocked().await);
    let events = place.query("SELECT event FROM revocations WHERE event <> 'observed' ORDER BY sequence");
    let events: Vec<&str> = events.iter().map(|row| row["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["revoked", "extended", "expired", "revoked", "restored", "revoked", "restored"]);
    let stays = place.query("SELECT event FROM enforcement ORDER BY sequence");
    let stays: Vec<&str> = stays.iter().map(|row| row["event"].as_str().unwrap()).collect();
    assert_eq!(stays, ["applied", "lifted", "applied", "lifted", "applied", "lifted"]);
}

/// Thresholds that find everybody.
#[tokio::test]
async fn a_detector_gone_mad_blocks_nobody() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 5_000).await;
    let place = Place::new("").with_env(server.env());
    let detectors = place.path("detectors");
    fs::create_dir(&detectors).unwrap();
    fs::write(
        detectors.join("mad.sql"),
        "-- [detector]\n-- description = \"Finds everybody\"\n-- family = \"mad\"\n-- strength = \"strong\"\n-- window = \"30m\"\n\
         -- every = \"5m\"\n-- ttl = \"1h\"\n-- scope = \"session\"\n-- false_positives = \"everybody\"\nSELECT session_id, 9.0 AS score FROM activity GROUP BY session_id\n",
    )
    .unwrap();
    place.configure("logs", &format!("{}\n[detect]\nqueries = \"detectors\"", waf_config(&id)));
    let viewers: Vec<String> = (0..80)
        .flat_map(|viewer| {
            let ip = format!("198.18.7.{viewer}");
            (0..4).map(move |n| {
                line(&format!("20:{:02}:00", 10 + n), &ip, &format!("Viewer{viewer:06}"), n, 200, "Player")
            })
        })
        .collect();
    place.write_log("E1.2026-11-20-20.aaaa.gz", &viewers);
    let summary = place.json(3, &["run", "--output", "json"]);
    assert_eq!((&summary["revoked"], &summary["held"]), (&json!(0), &json!(80)), "{summary}");
    assert!(read_group(&client, &id).await.rules.is_empty());
    assert_eq!(place.json(3, &["run", "--output", "json"])["held"], 0, "they are held once, and every run says so");
    // Found again, a few at a time, an hour later or not: they stay held.
    for (name, time, now) in [("b", "20:40:00", "2026-11-20T21:10:00Z"), ("c", "21:30:00", "2026-11-20T22:30:00Z")] {
        let few: Vec<String> = (0..3)
            .map(|viewer| line(time, &format!("198.18.7.{viewer}"), &format!("Viewer{viewer:06}"), 99, 200, "Player"))
            .collect();
        place.write_log(&format!("E1.2026-11-20-21.{name}.gz"), &few);
        let again = place.json(3, &["run", "--output", "json", "--now", now]);
        assert_eq!((&again["revoked"], &again["held"]), (&json!(0), &json!(0)), "{again}");
    }
    // A person drops one of them; the rest is let through, once.
    assert_eq!(place.json(0, &["restore", "Viewer000000", "--output", "json"])["sessions"], json!(["Viewer000000"]));
    let released = place.json(0, &["run", "--release-held", "--output", "json"]);
    assert_eq!(released["revoked"], 79, "{released}");
    assert_eq!(matched(&place, &read_group(&client, &id).await.rules).len(), 79);
}

/// 20,000 sessions of 12 characters, and then more than there is room for.
#[tokio::test]
async fn twenty_thousand_sessions_fit_and_of_more_the_right_ones() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 5_000).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    // Like chance, of 62 characters.
    let ids = |range: std::ops::Range<u64>| -> Vec<String> {
        let alphabet: Vec<char> = ('0'..='9').chain('A'..='Z').chain('a'..='z').collect();
        let id = |number: u64| {
            let mut state = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (0..12)
                .map(|_| {
                    state ^= state >> 29;
                    state = state.wrapping_mul(0xBF58_476D_1CE4_E5B9);
                    alphabet[(state >> 40) as usize % 62]
                })
                .collect()
        };
        range.map(id).collect()
    };
    let first = ids(0..20_000);
    let output = with_list(&place, &["revoke", "-", "--sync", "--output", "json"], &first);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let rules = read_group(&client, &id).await.rules;
    let cost: u64 = rules.iter().map(wcu).sum();
    assert!(cost <= 20_000 * 10 / 45, "{cost} WCU: fewer than 4.5 sessions each");
    let others = ids(50_000..50_100);
    for (ids, expected) in [(first.iter().step_by(400), true), (others.iter().step_by(1), false)] {
        for id in ids {
            assert_eq!(blocks(&rules, &request_of(id)), expected, "{id}");
        }
    }

    let output = with_list(
        &place,
        &["revoke", "-", "--sync", "--output", "json", "--now", "2026-11-20T21:01:00Z"],
        &ids(20_000..30_000),
    );
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = place.json(3, &["waf", "show", "--output", "json", "--now", "2026-11-20T21:02:00Z"]);
    let left_out = shown["left_out"].as_array().unwrap();
    assert_eq!(shown["sessions"].as_u64().unwrap() as usize + left_out.len(), 30_000);
    assert!(shown["sessions"].as_u64().unwrap() > 22_500, "4.5 a WCU: {}", shown["sessions"]);
    let first: BTreeSet<&str> = first.iter().map(String::as_str).collect();
    assert!(left_out.iter().all(|id| first.contains(id.as_str().unwrap())), "the latest come first");
    assert!(alarms(&shown).contains("do not fit the rule group"));
}

#[tokio::test]
async fn what_waf_asks_for_rules_counts_not_our_arithmetic() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 12).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    let lines: Vec<String> =
        (0..40).flat_map(|n| shared(&format!("{:x}Session{n:03}", n * 7 % 16), 20, 10, 10)).collect();
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    server.price(3);
    let summary = place.json(3, &["run", "--output", "json"]);
    let group = read_group(&client, &id).await.rules;
    let cost: u64 = group.iter().map(wcu).sum();
    assert!(cost > 0 && cost * 3 <= 12, "{cost}");
    assert_eq!(summary["waf"]["wcu"], cost * 3, "{summary}");
    assert_eq!(matched(&place, &group).len() as u64, summary["waf"]["sessions"].as_u64().unwrap());
    server.forget_calls();
    assert_eq!(place.json(3, &["run", "--output", "json"])["waf"]["changed"], false);
    assert!(!operations(&server, "wafv2").contains(&"UpdateRuleGroup".to_owned()));
    // As documented again: all that fit now.
    server.price(1);
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&summary["waf"]["sessions"], &summary["waf"]["left_out"]), (&json!(40), &json!(0)), "{summary}");
}

#[tokio::test]
async fn who_is_revoked_by_hand_is_blocked_at_once_and_let_go_at_once() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 100).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    let output = place.run(&["revoke", "ManualSess01", "--reason", "chargeback", "--sync"]);
    assert_eq!((output.code, output.stdout.contains("rule group guard updated")), (0, true), "{output:?}");
    assert_eq!(matched(&place, &read_group(&client, &id).await.rules), set(["ManualSess01"]));
    // Without --sync the next run does it.
    place.run(&["revoke", "ManualSess02"]);
    assert_eq!(matched(&place, &read_group(&client, &id).await.rules), set(["ManualSess01"]));
    place.json(0, &["run", "--output", "json"]);
    assert_eq!(matched(&place, &read_group(&client, &id).await.rules), set(["ManualSess01", "ManualSess02"]));
    assert_eq!(place.run(&["restore", "ManualSess01", "--sync"]).code, 0);
    assert_eq!(matched(&place, &read_group(&client, &id).await.rules), set(["ManualSess02"]));
    // WAF does not answer: it is recorded, and that is said.
    server.fail_next("GetRuleGroup", 1, "AccessDeniedException", 400);
    let output = place.run(&["restore", "ManualSess02", "--sync"]);
    assert_eq!(output.code, 1);
    assert!(
        output.stderr.contains("recorded, but WAF is not in step")
            && output.stderr.contains("grant wafv2:GetRuleGroup")
    );
    place.json(0, &["run", "--output", "json"]);
    assert!(read_group(&client, &id).await.rules.is_empty());
}

/// The logs go on and tell whether a block works.
#[tokio::test]
async fn the_logs_prove_a_block_or_raise_the_alarm() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 100).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    let both = [shared("RefusedSes01", 20, 10, 12), shared("ServedSess01", 20, 10, 12)].concat();
    place.write_log("E1.2026-11-20-20.aaaa.gz", &both);
    assert_eq!(place.json(0, &["run", "--output", "json", "--now", "2026-11-20T20:20:00Z"])["revoked"], 2);
    let request = |time: &str, session: &str, status| line(time, "198.18.0.1", session, 900, status, "Player/0");
    // Within minutes after the update old rules may still hold somewhere.
    let soon = [
        request("20:20:30", "RefusedSes01", 200),
        request("20:21:10", "RefusedSes01", 403),
        request("20:30:00", "RefusedSes01", 403),
        request("20:22:00", "ServedSess01", 200),
    ];
    place.write_log("E1.2026-11-20-20.bbbb.gz", &soon);
    place.json(0, &["run", "--output", "json", "--now", "2026-11-20T20:35:00Z"]);
    place.write_log("E1.2026-11-20-20.cccc.gz", &[request("20:31:00", "ServedSess01", 200)]);
    let summary = place.json(3, &["run", "--output", "json", "--now", "2026-11-20T20:40:00Z"]);
    let said = alarms(&summary);
    assert!(said.contains("1 blocked sessions are still served: ServedSess01"), "{said}");
    assert!(said.contains("served 2026-11-20T20:31:00Z") && said.contains("web ACL"), "{said}");
    // Once: what came is told, not what had come.
    place.json(0, &["run", "--output", "json", "--now", "2026-11-20T20:41:00Z"]);
    let arguments = ["query", "--saved", "block_effects", "--format", "json", "--now", "2026-11-20T20:45:00Z"];
    let output = place.run(&arguments);
    let rows: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2, "{output:?}");
    assert_eq!(
        rows[0],
        json!({
            "session_id": "RefusedSes01", "revoked_at": "2026-11-20T20:20:00Z", "applied_at": "2026-11-20T20:20:00Z",
            "first_refused": "2026-11-20T20:21:00Z", "seconds_to_effect": 60, "refused_requests": 2,
            "last_accepted": "2026-11-20T20:20:30Z", "seconds_served_after": 30
        })
    );
    assert_eq!((&rows[1]["session_id"], &rows[1]["seconds_served_after"]), (&json!("ServedSess01"), &json!(660)));
    assert!(rows[1].get("first_refused").is_none());
}

#[test]
fn what_enforce_would_have_blocked() {
    let place = Place::new("[guard]\nmode = \"observe\"");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    // Somebody who only names an id: no mode would have blocked that.
    place.write_log("E1.2026-11-20-20.bbbb.gz", &unbound(&shared("UnboundSes01", 20, 10, 12)));
    assert_eq!(place.json(0, &["run", "--output", "json"])["observed"], 2);
    place.configure("logs", "[guard]\nmode = \"count\"");
    place.write_log("E1.2026-11-20-20.cccc.gz", &shared("CountedSes01", 20, 10, 12));
    // Who was observed stays so, as nothing new is found of him.
    assert_eq!(place.json(0, &["run", "--output", "json", "--now", "2026-11-20T21:05:00Z"])["revoked"], 1);
    let asked = |more: &[&str]| -> Vec<Value> {
        let arguments = ["query", "--saved", "would_have_blocked", "--format", "json"];
        let output = place.run(&[&arguments, more].concat());
        assert_eq!(output.code, 0, "{output:?}");
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let rows = asked(&["--now", "2026-11-20T22:00:00Z"]);
    let told: Vec<(&str, &str, u64)> = rows
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap();
            (text("session_id"), text("mode"), row["blocks_of_hour"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(told, [("SharedSess01", "observe", 1), ("CountedSes01", "count", 2)]);
    let until_then = asked(&["--now", "2026-11-20T21:04:00Z", "--since", "1h"]);
    assert_eq!(until_then.len(), 1, "up to a time");
    assert_eq!(asked(&["--now", "2026-11-22T21:04:00Z", "--since", "1h"]), Vec::<Value>::new());
    // A detector that only observes would not have blocked anybody then either.
    place.configure("logs", "[detectors.many_ips]\nmode = \"observe\"");
    assert_eq!(asked(&["--now", "2026-11-20T22:00:00Z"]), Vec::<Value>::new());
}

/// When the group will be full is told before it is.
#[tokio::test]
async fn a_group_that_fills_up_is_told_of() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 4).await;
    let run = |code, ttl: &str| {
        let config = format!("{}\n[detectors.many_ips]\nttl = \"{ttl}\"", waf_config(&id));
        let place = Place::new(&config).with_env(server.env());
        let lines: Vec<String> = (0..8).flat_map(|n| shared(&format!("Session{n:05}"), 20, 10, 12)).collect();
        place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
        let summary = place.json(code, &["run", "--output", "json", "--now", "2026-11-20T20:20:00Z"]);
        assert_eq!(summary["waf"]["sessions"], 8);
        (place, summary)
    };
    // Eight in six hours that last for one: never more than that.
    assert_eq!(run(0, "1h").1["waf"]["full_at"], Value::Null);
    // Until midnight, when their tokens expire, they take three quarters of the room.
    let (place, summary) = run(3, "20h");
    assert_eq!(summary["waf"]["full_at"], "2026-11-20T22:25:00Z", "{summary}");
    assert!(alarms(&summary).contains("the rule group is full at 2026-11-20T22:25:00Z"), "{summary}");
    let shown = place.json(3, &["waf", "show", "--output", "json", "--now", "2026-11-20T20:20:00Z"]);
    assert_eq!(shown["full_at"], summary["waf"]["full_at"]);
}

/// Others put manual revocations into the table of Secure Media Delivery.
#[tokio::test]
async fn manual_revocations_of_secure_media_delivery_are_taken_in() {
    use aws_sdk_dynamodb::types::AttributeValue::{N, S};
    use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};

    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 100).await;
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
        .endpoint_url(server.url())
        .region(aws_sdk_dynamodb::config::Region::new("eu-west-1"))
        .credentials_provider(aws_sdk_dynamodb::config::Credentials::new("test", "test", None, None, "tests"))
        .build();
    let dynamodb = aws_sdk_dynamodb::Client::from_conf(config);
    let key = KeySchemaElement::builder().attribute_name("session_id").key_type(KeyType::Hash).build().unwrap();
    let attribute = AttributeDefinition::builder()
        .attribute_name("session_id")
        .attribute_type(ScalarAttributeType::S)
        .build()
        .unwrap();
    dynamodb
        .create_table()
        .table_name("SessionToRevoke")
        .key_schema(key)
        .attribute_definitions(attribute)
        .billing_mode(BillingMode::PayPerRequest)
        .send()
        .await
        .unwrap();
    let epoch = |time: &str| time.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp();
    // As the solution's SDK and its Lambda write them.
    let put = async |session: &str, kind: &str, updated: &str, ttl: &str| {
        dynamodb
            .put_item()
            .table_name("SessionToRevoke")
            .item("session_id", S(session.into()))
            .item("type", S(kind.into()))
            .item("reason", S("COMPROMISED".into()))
            .item("score", N("0".into()))
            .item("last_updated", N(epoch(updated).to_string()))
            .item("ttl", N(epoch(ttl).to_string()))
            .send()
            .await
            .unwrap();
    };
    put("ManualSess01", "MANUAL", "2026-11-20T20:00:00Z", "2026-11-20T23:00:00Z").await;
    put("ManualSess02", "MANUAL", "2026-11-20T20:00:00Z", "2026-11-27T20:00:00Z").await;
    put("EndedSession", "MANUAL", "2026-11-19T20:00:00Z", "2026-11-20T20:00:00Z").await;
    put("AutoSession1", "AUTO", "2026-11-20T20:00:00Z", "2026-11-27T20:00:00Z").await;
    put("no.session|.*", "MANUAL", "2026-11-20T20:00:00Z", "2026-11-27T20:00:00Z").await;

    let place = Place::new(&format!("{}\n[dynamodb]\ntable = \"SessionToRevoke\"", waf_config(&id)));
    let place = place.with_env(server.env());
    let run = |code, now: &str| place.json(code, &["run", "--output", "json", "--now", now]);
    let is_blocked = async || {
        let rules = read_group(&client, &id).await.rules;
        ["ManualSess01", "ManualSess02"].map(|session| blocks(&rules, &request_of(session)))
    };
    let expires = |session: &str| {
        let sql = format!("SELECT expires_at FROM active_revocations WHERE session_id = '{session}' ");
        let output = place.run(&["query", "--format", "json", "--now", "2026-11-22T21:30:00Z", &sql]);
        let row: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        row["expires_at"].as_str().unwrap().to_owned()
    };
    let summary = run(3, "2026-11-20T21:00:00Z");
    assert_eq!(summary["revoked"], 2, "{summary}");
    assert!(alarms(&summary).contains("no.session|.*"), "what cannot be taken in is said: {summary}");
    assert_eq!(matched(&place, &read_group(&client, &id).await.rules), set(["ManualSess01", "ManualSess02"]));
    let active =
        place.query("SELECT session_id, origin, reason, expires_at FROM active_revocations ORDER BY session_id");
    let expected = |session: &str, until: &str| json!({"session_id": session, "origin": "dynamodb", "reason": "COMPROMISED", "expires_at": until});
    // Three days at a time, as long as the row is there.
    let first = [expected("ManualSess01", "2026-11-20T23:00:00Z"), expected("ManualSess02", "2026-11-23T21:00:00Z")];
    assert_eq!(active, first);
    dynamodb
        .delete_item()
        .table_name("SessionToRevoke")
        .key("session_id", S("no.session|.*".into()))
        .send()
        .await
        .unwrap();
    let again = run(0, "2026-11-20T21:05:00Z");
    assert_eq!((&again["revoked"], &again["extended"]), (&json!(0), &json!(0)), "once is enough");
    assert_eq!(run(0, "2026-11-21T20:00:00Z")["expired"], 1);
    assert_eq!(run(0, "2026-11-22T20:00:00Z")["extended"], 1);
    assert_eq!(is_blocked().await, [false, true]);

    // A person restores it, and the row is older than that; then it is written anew.
    place.json(0, &["restore", "ManualSess02", "--sync", "--output", "json", "--now", "2026-11-22T21:10:00Z"]);
    assert_eq!(run(0, "2026-11-22T21:15:00Z")["revoked"], 0);
    assert_eq!(is_blocked().await, [false, false]);
    put("ManualSess02", "MANUAL", "2026-11-22T21:20:00Z", "2026-11-27T20:00:00Z").await;
    assert_eq!(run(0, "2026-11-22T21:25:00Z")["revoked"], 1);
    assert_eq!(is_blocked().await, [false, true]);
    // The ttl is put back.
    put("ManualSess02", "MANUAL", "2026-11-22T21:25:30Z", "2026-11-22T23:00:00Z").await;
    run(0, "2026-11-22T21:26:00Z");
    assert_eq!(expires("ManualSess02"), "2026-11-22T23:00:00Z");
    // The solution's own detection writes over the row: it is still there. Then it goes.
    put("ManualSess02", "AUTO", "2026-11-22T21:26:00Z", "2026-11-27T20:00:00Z").await;
    assert_eq!(run(0, "2026-11-22T21:30:00Z")["restored"], 0);
    dynamodb
        .delete_item()
        .table_name("SessionToRevoke")
        .key("session_id", S("ManualSess02".into()))
        .send()
        .await
        .unwrap();
    assert_eq!(run(0, "2026-11-22T21:35:00Z")["restored"], 1);
    assert_eq!(is_blocked().await, [false, false]);

    // A row takes its own block with it, and nobody else's: the operator's stands until its time is over.
    let at = |minute: u32| format!("2026-11-22T21:{minute}:00Z");
    place.json(0, &["revoke", "ManualSess04", "--ttl", "24h", "--output", "json", "--now", &at(36)]);
    put("ManualSess04", "MANUAL", &at(36), "2026-11-25T20:00:00Z").await;
    run(0, &at(37));
    assert_eq!(expires("ManualSess04"), "2026-11-25T20:00:00Z");
    put("ManualSess04", "MANUAL", &at(37), "2026-11-23T20:00:00Z").await;
    assert_eq!(run(0, &at(38))["restored"], 0);
    assert_eq!(expires("ManualSess04"), "2026-11-23T21:36:00Z");
    dynamodb
        .delete_item()
        .table_name("SessionToRevoke")
        .key("session_id", S("ManualSess04".into()))
        .send()
        .await
        .unwrap();
    assert_eq!(run(0, &at(39))["restored"], 0);
    assert_eq!(expires("ManualSess04"), "2026-11-23T21:36:00Z");
    place.json(0, &["restore", "ManualSess04", "--output", "json", "--now", &at(39)]);

    // A table that cannot be read is said, and changes nothing.
    put("ManualSess03", "MANUAL", "2026-11-22T21:20:00Z", "2026-11-27T20:00:00Z").await;
    run(0, "2026-11-22T21:40:00Z");
    server.fail_next("Scan", 1, "AccessDeniedException", 400);
    let failed = run(1, "2026-11-22T21:45:00Z");
    assert!(alarms(&failed).contains("grant dynamodb:Scan"), "{failed}");
    assert_eq!(failed["waf"]["sessions"], 1);
}

/// The id is what WAF matches: the next token has it too.
#[tokio::test]
async fn a_block_by_hand_outlives_the_tokens_that_were_seen() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 100).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("OneHomeSess1", 20, 10, 1));
    place.json(0, &["run", "--output", "json"]);
    place.run(&["revoke", "OneHomeSess1", "--ttl", "24h", "--sync"]);
    // Its token ends at midnight.
    place.json(0, &["run", "--output", "json", "--now", "2026-11-21T20:59:00Z"]);
    assert!(blocks(&read_group(&client, &id).await.rules, &request_of("OneHomeSess1")));
    assert_eq!(place.json(0, &["run", "--output", "json", "--now", "2026-11-21T21:00:00Z"])["expired"], 1);
    assert!(read_group(&client, &id).await.rules.is_empty());
}

/// One scheme's id may be somebody else's in another.
#[test]
fn an_id_is_taken_for_that_of_the_scheme_that_is_meant() {
    let place = Place::new("[[session]]\nscheme = \"cmcd\"");
    let refused = place.run(&["revoke", "UnseenSess01"]);
    assert_eq!(refused.code, 3);
    assert!(refused.stdout.contains("revoke --scheme"), "{refused:?}");
    assert_eq!(place.run(&["revoke", "UnseenSess01", "--scheme", "secure-media-delivery"]).code, 0);
    assert_eq!(place.json(0, &["waf", "plan", "--output", "json"])["rules"][0]["component"], "path-start");
    assert_eq!(place.run(&["revoke", "UnseenSess02", "--scheme", "jwt"]).code, 3);
}

#[tokio::test]
async fn who_is_left_behind_in_another_group_is_told() {
    let server = AwsServer::start();
    let client = waf(&server);
    let old = make_group(&client, 100).await;
    let place = Place::new(&waf_config(&old)).with_env(server.env());
    place.run(&["revoke", "ManualSess01", "--sync"]);
    let group = client.create_rule_group().name("other").scope(aws_sdk_wafv2::types::Scope::Cloudfront).capacity(50);
    let visibility = foreign_rule("other", 0).visibility_config;
    let made = group.set_visibility_config(visibility).send().await.unwrap();
    let new = made.summary.unwrap().id.unwrap();
    let behind = format!("1 sessions are still in the rules of the rule group with the id {old}");
    let is_told = |place: &Place, code| {
        let summary = place.json(code, &["run", "--output", "json"]);
        assert!(alarms(&summary).contains(&behind), "{summary}");
    };
    // Without [waf], and whether the new group can be written or not: until a person has seen to it.
    place.configure("logs", "");
    is_told(&place, 3);
    place.configure("logs", &format!("[waf]\nname = \"other\"\nid = \"{new}\""));
    server.fail_next("UpdateRuleGroup", 1, "AccessDeniedException", 400);
    place.json(1, &["run", "--output", "json"]);
    is_told(&place, 3);
    is_told(&place, 3);
    assert_eq!(place.run(&["waf", "forget", &new]).code, 2, "not the one that is in use");
    assert_eq!(place.json(0, &["waf", "forget", &old, "--output", "json"]), json!({"group": old, "sessions": 1}));
    assert_eq!(place.json(0, &["waf", "forget", &old, "--output", "json"])["sessions"], 0);
    place.json(0, &["run", "--output", "json"]);
    assert_eq!(place.json(0, &["waf", "show", "--output", "json"])["in_force"], true);
}

/// WAF does not say what rules cost: who is to be let go is let go, and nobody new is blocked.
#[tokio::test]
async fn expiry_does_not_wait_for_a_permission() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 100).await;
    let place = Place::new(&waf_config(&id)).with_env(server.env());
    place.run(&["revoke", "ShortSess001", "--ttl", "1h"]);
    place.run(&["revoke", "LongSess0001", "--ttl", "5h", "--sync"]);
    server.fail_next("CheckCapacity", 2, "AccessDeniedException", 400);
    let summary = place.json(0, &["run", "--output", "json", "--now", "2026-11-20T22:00:00Z"]);
    assert_eq!((&summary["expired"], &summary["waf"]["changed"]), (&json!(1), &json!(true)));
    assert_eq!(matched(&place, &read_group(&client, &id).await.rules), set(["LongSess0001"]));
    // Rules of others, whose price is not known either, change nothing in that.
    let mut with_theirs = read_group(&client, &id).await.rules;
    with_theirs.push(foreign_rule("theirs", 9));
    put_rules(&client, &id, with_theirs).await;
    place.run(&["restore", "LongSess0001", "--now", "2026-11-20T22:00:30Z"]);
    server.fail_next("CheckCapacity", 4, "AccessDeniedException", 400);
    place.json(0, &["run", "--output", "json", "--now", "2026-11-20T22:00:40Z"]);
    assert_eq!(matched(&place, &read_group(&client, &id).await.rules), set([]));
    place.run(&["revoke", "NewSess00001", "--now", "2026-11-20T22:00:00Z"]);
    let refused = place.json(1, &["run", "--output", "json", "--now", "2026-11-20T22:01:00Z"]);
    assert!(alarms(&refused).contains("grant wafv2:CheckCapacity"), "{refused}");
    assert_eq!(matched(&place, &read_group(&client, &id).await.rules), set([]));
}

/// A token that was refreshed after the block is served until the next run: that is no alarm. That it is served then is one.
#[tokio::test]
async fn a_refreshed_token_is_no_alarm_but_what_is_served_after_it() {
    let server = AwsServer::start();
    let client = waf(&server);
    let id = make_group(&client, 100).await;
    let place = Place::new("").with_env(server.env());
    let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    let jwt = "scheme = \"jwt\"\nquery = \"token\"\nclaim = \"sid\"";
    let config = config.replace("scheme = \"secure-media-delivery\"", jwt) + &waf_config(&id);
    fs::write(place.path("streamwarden.toml"), config).unwrap();
    let log = |name: &str, minute, signature| place.write_refreshed(name, minute, signature);
    log("E1.2026-11-20-20.a.log", 10, 'x');
    assert_eq!(place.json(0, &["run", "--output", "json", "--now", "2026-11-20T20:15:00Z"])["revoked"], 1);
    log("E1.2026-11-20-20.b.log", 26, 'y');
    place.json(0, &["run", "--output", "json", "--now", "2026-11-20T20:30:00Z"]);
    let stays = place.query("SELECT event, credentials FROM enforcement ORDER BY sequence");
    assert_eq!(stays, [json!({"event": "applied", "credentials": 1}), json!({"event": "widened", "credentials": 2})]);
    log("E1.2026-11-20-20.c.log", 40, 'y');
    let served = place.json(3, &["run", "--output", "json", "--now", "2026-11-20T20:45:00Z"]);
    assert!(alarms(&served).contains("still served: session-one"), "{served}");
}

/// What WAF matches is kept for as long as a block may last, though activity is dropped before.
#[test]
fn what_waf_matches_is_not_dropped_while_it_is_needed() {
    let place = Place::new("");
    let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    let config = config.replace("[[logs]]", "activity_retention = \"26h\"\n[[logs]]");
    fs::write(place.path("streamwarden.toml"), config).unwrap();
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 1));
    place.json(0, &["run", "--output", "json", "--now", "2026-11-20T20:20:00Z"]);
    let revoke = ["revoke", "SharedSess01", "--ttl", "24h", "--now", "2026-11-21T20:00:00Z"];
    assert_eq!(place.run(&revoke).code, 0);
    for now in ["2026-11-21T20:10:00Z", "2026-11-22T10:00:00Z"] {
        // Old files and rows are looked through once a day, by the machine's clock.
        let _ = fs::remove_file(place.path("state/vacuumed"));
        let summary = place.json(0, &["run", "--output", "json", "--now", now]);
        assert_eq!(summary["waf"]["sessions"], 1, "{now}: {summary}");
    }
    assert_eq!(place.query("SELECT session_id FROM activity").len(), 0);
}
