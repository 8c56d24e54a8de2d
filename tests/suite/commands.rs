//! The commands beside `run`: what they print, and how they end.

use std::io::{Read, Write};
use std::process::{Child, Command};

use arrow::array::AsArray;
use chrono::{DateTime, Utc};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::support::{NOW, Place, fixtures, line, shared, until};

#[test]
fn query_prints_every_format_and_takes_nothing_but_a_select() {
    let place = Place::with_fixtures("[lists]\nown_referers = [\"www.example.com\"]");
    place.json(0, &["run", "--output", "json"]);
    let sql = "SELECT event, COUNT(*) AS n FROM revocations WHERE event = 'revoked' GROUP BY event";
    assert_eq!(place.run(&["query", sql]).stdout, "  event    n\n  revoked  8\n");
    assert_eq!(place.run(&["query", "--format", "csv", sql]).stdout, "event,n\nrevoked,8\n");
    assert_eq!(place.query(sql), [json!({"event": "revoked", "n": 8})]);
    // requests is read from the log objects; the lists are tables too.
    let read = place.query("SELECT COUNT(*) AS n, SUM(CASE WHEN accepted THEN 1 ELSE 0 END) AS a FROM requests");
    assert_eq!(read, [json!({"n": 8059, "a": 7443})]);
    assert_eq!(place.query("SELECT value FROM own_referers"), [json!({"value": "www.example.com"})]);

    let output = place.command(&["query", "--format", "parquet", sql]).output().unwrap();
    std::fs::write(place.path("events.parquet"), &output.stdout).unwrap();
    let file = std::fs::File::open(place.path("events.parquet")).unwrap();
    let mut batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batch = batches.next().unwrap().unwrap();
    assert_eq!(batch.column_by_name("n").unwrap().as_primitive::<arrow::datatypes::Int64Type>().value(0), 8);

    for sql in
        ["DROP TABLE runs", "SELECT 1; SELECT 2", "CREATE TABLE x AS SELECT 1", "SELECT nonsense FROM runs", "SELEC"]
    {
        let output = place.run(&["query", sql]);
        assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{sql}: {output:?}");
        assert!(output.stderr.starts_with("streamwarden: "), "{output:?}");
    }
}

#[test]
fn explain_tells_who_used_a_session_and_how_near_it_is_to_being_found() {
    let place = Place::new("");
    let mut lines = shared("SharedSess01", 20, 10, 12);
    lines.extend(shared("NearlySess01", 20, 10, 5));
    lines.push(line("20:20:00", "198.18.77.1", "NearlySess01", 900, 200, "Evil%1b[31m%E2%80%AEagent"));
    lines.push(line("20:21:00", "198.18.77.2", "NearlySess01", 901, 403, "x"));
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    place.json(0, &["run", "--output", "json"]);
    let before = place.commits();

    let blocked = place.json(0, &["explain", "SharedSess01", "--output", "json"]);
    assert_eq!(
        (&blocked["block"]["mode"], &blocked["block"]["expires_at"]),
        (&json!("enforce"), &json!("2026-11-20T22:00:00Z"))
    );
    assert_eq!(
        (blocked["networks"].as_array().unwrap().len(), &blocked["events"][0]["event"]),
        (12, &json!("revoked"))
    );
    assert_eq!((&blocked["seen"]["requests"], &blocked["seen"]["bound"]), (&json!(48), &json!("always")));
    let judgement = |explained: &Value, name: &str| {
        let all = explained["detectors"].as_array().unwrap();
        all.iter().find(|judgement| judgement["detector"] == name).unwrap().clone()
    };
    let found = judgement(&blocked, "many_ips");
    assert_eq!((&found["found"]["strength"], &found["numbers"][0]["value"]), (&json!("medium"), &json!(12.0)));

    let nearly = place.json(0, &["explain", "NearlySess01", "--output", "json"]);
    assert_eq!((&nearly["block"], &nearly["refused"]), (&Value::Null, &json!(1)));
    let near = judgement(&nearly, "many_ips");
    let number = json!({"name": "networks", "value": 5.0, "threshold": 8.0, "parameter": "max_networks"});
    assert_eq!((&near["found"], &near["numbers"]), (&Value::Null, &json!([number])));
    let text = place.run(&["explain", "NearlySess01"]).stdout;
    assert!(text.contains("networks 5 of 8") && text.contains("blocked    no"), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{202e}']) && text.contains("Evil\\u{1b}[31m\\u{202e}agent"), "{text}");

    let unknown = place.run(&["explain", "NobodySess01"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("nothing is known of the session NobodySess01"), "{unknown:?}");
    assert_eq!(place.commits(), before, "nothing is written");
}

#[test]
fn history_tells_by_session_detector_and_time() {
    let place = Place::new("");
    place.write_log(
        "E1.2026-11-20-20.aaaa.gz",
        &[shared("SharedSess01", 20, 10, 12), shared("SharedSess02", 20, 10, 12)].concat(),
    );
    place.json(0, &["run", "--output", "json"]);
    let events = |arguments: &[&str]| {
        let output = place.run(&[&["history", "--output", "json"], arguments].concat());
        assert_eq!(output.code, 0, "{output:?}");
        output.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(events(&[]).len(), 2);
    let one = events(&["--session", "SharedSess01"]);
    assert_eq!(
        (&one[0]["event"], &one[0]["origin"], &one[0]["mode"]),
        (&json!("revoked"), &json!("auto"), &json!("enforce"))
    );
    assert_eq!(one[0]["detector"], "many_ips,many_user_agents");
    // The evidence is enough to answer for it: windows, numbers, detectors.
    let evidence: serde_json::Value = serde_json::from_str(one[0]["evidence"].as_str().unwrap()).unwrap();
    assert_eq!((&evidence[0]["detector"], &evidence[0]["evidence"]["networks"]), (&json!("many_ips"), &json!(12)));
    let told = |finding: &serde_json::Value| finding["evidence"].get("who").cloned();
    let who = evidence.as_array().unwrap().iter().find_map(told).unwrap();
    for (what, different) in [("networks", 12), ("countries", 1), ("operators", 1), ("devices", 1), ("user_agents", 12)]
    {
        let most = &who[what]["most"][0];
        assert_eq!(who[what]["different"], json!(different), "{what}: {who}");
        assert!(most["first_seen"].as_str() <= most["last_seen"].as_str() && most["value"].is_string(), "{most}");
    }
    assert_eq!(events(&["--detector", "many_ips"]).len(), 2);
    assert_eq!(events(&["--detector", "many_countries"]).len(), 0);
    assert_eq!(events(&["--now", "2026-11-22T21:00:00Z"]).len(), 0);
    assert_eq!(events(&["--now", "2026-11-22T21:00:00Z", "--since", "3d"]).len(), 2);
    assert!(place.run(&["history"]).stdout.contains("many_ips, many_user_agents agree"));
}

#[test]
fn run_speaks_to_people() {
    let place = Place::with_fixtures("");
    let output = place.run(&["run"]);
    assert_eq!(output.code, 0, "{output:?}");
    for part in
        ["35 ingested", "8059 read", "8 revoked", "until", "agree", "8 sessions in 1 rule, 3 of 5000 WCU", "^/(?:"]
    {
        assert!(output.stdout.contains(part), "{part}: {}", output.stdout);
    }
    place.configure(fixtures().join("standard").to_str().unwrap(), "[waf]\ncapacity = 1");
    let output = place.run(&["waf", "plan"]);
    assert_eq!(output.code, 3, "nothing fits a capacity of 1: {output:?}");
    assert!(
        output.stdout.contains("0 sessions in 0 rules, 0 of 1 WCU") && output.stdout.contains("LEFT OUT"),
        "{output:?}"
    );
}

#[test]
fn run_says_nothing_on_stderr_when_all_is_well() {
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    let output = place.run(&["run"]);
    assert_eq!(output.stderr, "", "nothing to warn of, and no bar where there is no terminal");
}

#[test]
fn two_runs_at_once_one_works_and_the_other_leaves_or_waits() {
    let place = Place::with_fixtures("");
    let lock = place.path("state/lock");
    std::fs::create_dir(place.path("state")).unwrap();
    let held = std::fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    let output = place.run(&["run"]);
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stderr.contains("another run holds the state"), "{output:?}");
    let log = place.path("log");
    let mut waiting = place.command(&["run", "--wait"]).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    until("it says that it waits", || std::fs::read_to_string(&log).unwrap().contains("waiting until it is done"));
    assert!(waiting.try_wait().unwrap().is_none(), "it waits");
    drop(held);
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}

/// Waits until the daemon has made so many passes.
fn wait_for_runs(place: &Place, runs: usize) {
    let last = place.path("state/tables/runs").join(format!("_delta_log/{runs:020}.json"));
    until("the daemon makes its passes", || last.exists());
}

fn terminate(daemon: &mut Child) -> (Option<i32>, String) {
    Command::new("kill").args(["-TERM", &daemon.id().to_string()]).status().unwrap();
    let code = daemon.wait().unwrap().code();
    let mut log = String::new();
    daemon.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    (code, log)
}

#[test]
fn the_daemon_passes_on_schedule_takes_new_logs_and_ends_cleanly() {
    let place = Place::new("[schedule]\nevery = \"1s\"");
    let mut daemon = place.command(&["daemon"]).spawn().unwrap();
    wait_for_runs(&place, 1);
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    wait_for_runs(&place, 4);
    let (code, log) = terminate(&mut daemon);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("1 revoked") && log.contains("ended"), "{log}");
    assert_eq!(place.query("SELECT session_id FROM active_revocations").len(), 1);
    assert_eq!(
        place.json(0, &["run", "--output", "json"])["objects"]["ingested"],
        0,
        "the lock is free and nothing is left"
    );
}

#[test]
fn the_daemon_refuses_a_bad_config_and_outlives_a_bad_pass() {
    let place = Place::new("[schedule]\nevery = \"0s\"");
    assert_eq!(place.run(&["daemon"]).code, 2);
    let place = Place::with_logs("nowhere", "[schedule]\nevery = \"1s\"");
    let mut daemon = place.command(&["daemon"]).spawn().unwrap();
    wait_for_runs(&place, 3);
    let (code, log) = terminate(&mut daemon);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("cannot list"), "{log}");
}

#[test]
fn saved_reports_say_what_the_history_says() {
    let place = Place::with_fixtures("");
    let run = place.json(0, &["run", "--output", "json"]);
    let rows = |arguments: &[&str]| -> Vec<Value> {
        let output = place.run(&[&["query", "--format", "json", "--saved"], arguments].concat());
        assert_eq!(output.code, 0, "{arguments:?}: {output:?}");
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let offenders = rows(&["top_offenders", "--since", "1d"]);
    assert_eq!(offenders.len() as u64, run["revoked"].as_u64().unwrap() + run["observed"].as_u64().unwrap());
    assert!(offenders[0]["blocks"] == 1 && offenders[0]["score"] == 6.75, "{offenders:?}");
    assert_eq!(offenders[0]["blocked_until"], "2026-11-20T22:00:00Z");
    assert_eq!(offenders.last().unwrap()["blocks"], 0);
    let found = rows(&["detector_findings", "--detector", "many_ips"]);
    let sessions = place.query("SELECT COUNT(DISTINCT session_id) AS n FROM findings WHERE detector = 'many_ips'");
    assert_eq!(found.len() as u64, sessions[0]["n"].as_u64().unwrap());
    assert!(found.iter().all(|row| row["detector"] == "many_ips"));
    assert!(rows(&["detector_findings"]).len() > found.len());
    assert_eq!(rows(&["detector_findings", "--since", "1d", "--now", "2026-11-25T00:00:00Z"]).len(), 0);
    let today = "SELECT COUNT(*) AS n FROM runs WHERE started_at > now() - INTERVAL '1 minute' AND CAST(started_at AS DATE) = current_date";
    assert_eq!(place.query(today), [json!({"n": 1})], "now is that of --now");
    let blocked = rows(&["time_to_block"]);
    assert_eq!(blocked.len() as u64, run["revoked"].as_u64().unwrap());
    assert!(blocked.iter().all(|row| row["decided_at"] == NOW && row["applied_at"].is_null()), "{blocked:?}");
    // The window that decided may begin when the session was long shared.
    let replayed = place.json(0, &["replay", "--output", "json"]);
    let mut shared = 0;
    for revocation in replayed["revocations"].as_array().unwrap() {
        let row = blocked.iter().find(|row| row["session_id"] == revocation["session_id"]).unwrap();
        let at: DateTime<Utc> = revocation["shared_at"].as_str().unwrap().parse().unwrap();
        let since = NOW.parse::<DateTime<Utc>>().unwrap() - at;
        if !row["shared_at"].is_null() {
            assert_eq!(row["seconds_from_sharing"], since.num_seconds(), "{row} {revocation}");
            shared += 1;
        }
    }
    assert!(shared >= 6, "{blocked:?}");
    for ignored in [["--detector", "many_ips"], ["--since", "1h"]] {
        let refused = place.run(&["query", ignored[0], ignored[1], "SELECT 1"]);
        assert!(refused.code == 2 && refused.stderr.contains("--saved"), "{refused:?}");
    }
}

#[test]
fn a_query_comes_from_stdin_too() {
    let place = Place::with_fixtures("");
    place.json(0, &["run", "--output", "json"]);
    let mut query = place.command(&["query", "--format", "csv"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    query.stdin.take().unwrap().write_all(b"SELECT COUNT(*) AS n\nFROM active_revocations").unwrap();
    let output = query.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "n\n8\n");
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = Place::new("").run(&["completions", shell]);
        assert!(output.code == 0 && output.stdout.contains("release-held"), "{shell}");
    }
    let script = Place::new("").run(&["completions", "bash"]).stdout;
    let checked = Command::new("bash").args(["-n", "-c", &script]).status().unwrap();
    assert!(checked.success());
}

/// As a file of variables has them that are filled in where they are needed.
#[test]
fn a_variable_without_a_value_is_not_set() {
    let empty = ["STREAMWARDEN_NOW", "STREAMWARDEN_CONFIG", "STREAMWARDEN_LOG_FORMAT", "STREAMWARDEN_WEBHOOK"];
    let place = Place::with_fixtures("").with_env(empty.map(|name| (name, String::new())).to_vec());
    for arguments in [&["run"][..], &["revoke", "UnseenSess01"]] {
        let mut command = place.command(arguments);
        command.env("STREAMWARDEN_ACTOR", "").env("SUDO_USER", "").env("USER", "someone");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    assert_eq!(place.query("SELECT actor FROM revocations WHERE origin = 'manual'"), [json!({"actor": "someone"})]);
}
