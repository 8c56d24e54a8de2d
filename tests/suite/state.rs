//! The state: in S3 as in a folder, one run at a time, and kept small.

use std::collections::BTreeSet;
use std::fs;
use std::process::Child;

use aws_sdk_s3::primitives::ByteStream;
use rand::Rng;
use serde_json::{Value, json};

use crate::aws::s3;
use crate::once::{kill_runs, picture, seeded, undisturbed};
use crate::support::servers::{AwsServer, FaultyProxy};
use crate::support::{Place, fixtures, line, shared, until};

/// The fixtures of the demo, with the state in a bucket of this server.
async fn in_s3(server: &AwsServer) -> Place {
    s3(server).create_bucket().bucket("state").send().await.unwrap();
    let place = Place::with_fixtures("").with_env(server.env());
    move_state(&place);
    place
}

fn move_state(place: &Place) {
    let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    let moved = config.replace("location = \"state\"", "location = \"s3://state/warden\"\nlease = \"2s\"");
    assert_ne!(config, moved);
    fs::write(place.path("streamwarden.toml"), moved).unwrap();
}

#[tokio::test]
async fn a_state_in_s3_is_as_one_in_a_folder() {
    let folder = Place::with_fixtures("");
    folder.json(0, &["run", "--output", "json"]);
    let server = AwsServer::start();
    let place = in_s3(&server).await;
    assert_eq!(place.run(&["history"]).code, 1, "there is none yet");
    assert_eq!(place.json(0, &["run", "--output", "json"])["revoked"], 8);
    assert_eq!(picture(&place), picture(&folder));
    let again = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&again["objects"]["ingested"], &again["revoked"]), (&json!(0), &json!(0)));
    assert_eq!(place.json(0, &["waf", "plan", "--output", "json"])["sessions"], 8);
    let left = s3(&server).list_objects_v2().bucket("state").prefix("warden/lock").send().await.unwrap();
    assert_eq!(left.key_count(), Some(0), "the lock is given back");
    assert!(!place.path("state").exists());
}

/// Each request takes time, and is paid for.
#[tokio::test]
async fn a_run_fetches_what_never_changes_once_and_a_daemon_what_it_wrote_not_at_all() {
    let server = AwsServer::start();
    s3(&server).create_bucket().bucket("state").send().await.unwrap();
    let place = Place::new("[schedule]\nevery = \"1s\"\n[http]\nlisten = \"off\"").with_env(server.env());
    move_state(&place);
    for minute in 0..4 {
        place.write_log(&format!("E1.2026-11-20-20.{minute:04}.gz"), &shared("SharedSess01", 20, minute * 5, 12));
        server.forget_calls();
        place.json(0, &["run", "--output", "json"]);
    }
    let fetched = |server: &AwsServer| -> Vec<String> {
        let calls = server.calls().into_iter().filter(|call| call.operation == "GetObject" && call.status < 300);
        let never_changes = |key: &String| key.ends_with(".parquet") || key.ends_with(".json");
        calls.filter_map(|call| call.key).filter(|key| key.contains("/tables/") && never_changes(key)).collect()
    };
    let once = fetched(&server);
    let different: BTreeSet<&String> = once.iter().collect();
    assert!(different.len() > 20, "{different:?}");
    // Two that look at the same time may both ask.
    assert!(once.len() * 10 <= different.len() * 11, "{} for {}", once.len(), different.len());

    let mut daemon = place.command(&["daemon"]);
    let mut daemon = daemon.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let passes = || place.query("SELECT COUNT(*) AS n FROM runs")[0]["n"].as_u64().unwrap();
    until("six passes", || passes() >= 6);
    // A pass that took an object has ended.
    let ended = |server: &AwsServer| {
        let calls = server.calls();
        let put = |table: &str| {
            let table = format!("/tables/{table}/_delta_log/");
            calls.iter().rposition(|call| {
                call.operation == "PutObject" && call.key.as_ref().is_some_and(|key| key.contains(&table))
            })
        };
        put("objects").is_some_and(|objects| put("runs").is_some_and(|runs| runs > objects))
    };
    let take = |name: &str, minute: u32| {
        place.write_log(&format!("E1.2026-11-20-20.{name}.gz"), &shared("SharedSess02", 20, minute, 12));
        server.forget_calls();
        until("the daemon takes the new object", || ended(&server));
    };
    take("late", 30);
    let before: BTreeSet<String> = {
        let listed = s3(&server).list_objects_v2().bucket("state").send().await.unwrap();
        listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect()
    };
    take("later", 31);
    let again: Vec<String> = fetched(&server).into_iter().filter(|key| before.contains(key)).collect();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(again, [""; 0], "it has them from the passes before");
}

/// Waits for two runs that were started together; gives how many worked.
fn finish_both(runs: [Child; 2]) -> usize {
    let codes = runs.map(|run| run.wait_with_output().unwrap().status.code().unwrap());
    assert!(codes.iter().all(|code| matches!(code, 0 | 4)), "{codes:?}");
    codes.iter().filter(|code| **code == 0).count()
}

fn start(place: &Place) -> Child {
    let mut command = place.command(&["run"]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
}

#[test]
fn of_two_runs_at_once_one_works() {
    let place = Place::new("");
    let mut left = 0;
    for round in 0..50 {
        let session = format!("SharedSess{round:02}");
        place.write_log(&format!("E1.2026-11-20-20.{round:04}.gz"), &shared(&session, 20, round, 12));
        let worked = finish_both([start(&place), start(&place)]);
        assert!(worked >= 1, "round {round}");
        left += 2 - worked;
    }
    assert!(left > 0, "they never met");
    let expected = 50 * shared("x", 20, 0, 12).len();
    assert_eq!(place.query("SELECT SUM(requests) AS n FROM activity"), [json!({"n": expected})]);
    assert_eq!(place.query("SELECT COUNT(*) AS n FROM active_revocations"), [json!({"n": 50})]);
}

#[tokio::test]
async fn of_two_machines_at_once_one_works_and_a_dead_one_is_made_up_for() {
    let server = AwsServer::start();
    let place = in_s3(&server).await;
    assert_eq!(finish_both([start(&place), start(&place)]), 1);

    // The lock of the dead is taken over once its time is over; the logs are in S3, too.
    let client = s3(&server);
    client.create_bucket().bucket("logs").send().await.unwrap();
    let place = Place::with_logs("s3://logs", "").with_env(server.env());
    move_state(&place);
    let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    fs::write(place.path("streamwarden.toml"), config.replace("s3://state/warden", "s3://state/second")).unwrap();
    kill_runs(&place, &mut seeded("KILL_SEED"), 9_000, async |name, bytes| {
        let body = ByteStream::from(bytes.to_vec());
        client.put_object().bucket("logs").key(name).body(body).send().await.unwrap();
    })
    .await;
    assert_eq!(picture(&place), undisturbed());
    assert_eq!(place.query("SELECT COUNT(*) AS n FROM revocations WHERE event = 'revoked'"), [json!({"n": 8})]);
}

/// Stopped for so long that another run took its lease over, it goes on: it must see that before it writes anything.
#[tokio::test]
async fn a_run_that_lost_its_lease_writes_nothing_more() {
    let server = AwsServer::start();
    let place = in_s3(&server).await;
    let client = s3(&server);
    let signal = |run: &Child, name: &str| {
        let sent = std::process::Command::new("kill").args([name, &run.id().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    let paused = place.command(&["run"]).spawn().unwrap();
    // The tables are made, and nothing is in them yet.
    let last_made = "warden/tables/runs/_delta_log/00000000000000000000.json";
    while client.head_object().bucket("state").key(last_made).send().await.is_err() {}
    signal(&paused, "-STOP");
    assert_eq!(place.json(0, &["run", "--wait", "--output", "json"])["revoked"], 8);

    let expected = (picture(&place), place.query("SELECT run_id FROM runs"));
    server.forget_calls();
    signal(&paused, "-CONT");
    let output = paused.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("was lost to another run"), "{said}");
    let commits = server.calls().into_iter().filter(|call| {
        call.operation == "PutObject" && call.key.as_ref().is_some_and(|key| key.contains("_delta_log"))
    });
    assert_eq!(commits.filter(|call| call.status == 200).count(), 0);
    assert_eq!((picture(&place), place.query("SELECT run_id FROM runs")), expected);
    assert_eq!(place.json(0, &["run", "--output", "json"])["revoked"], 0, "and the lock is free");
}

/// Throttling, errors, resets, bodies that break off, for logs and state alike.
#[tokio::test]
async fn a_bad_day_of_s3_loses_and_doubles_nothing() {
    let folder = Place::with_fixtures("");
    folder.json(0, &["run", "--output", "json"]);
    let server = AwsServer::start();
    let client = s3(&server);
    client.create_bucket().bucket("logs").send().await.unwrap();
    client.create_bucket().bucket("state").send().await.unwrap();
    for object in fs::read_dir(fixtures().join("standard")).unwrap() {
        let path = object.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let body = ByteStream::from_path(&path).await.unwrap();
        client.put_object().bucket("logs").key(name).body(body).send().await.unwrap();
    }
    let proxy = FaultyProxy::start(&server, seeded("FAULT_SEED").random(), 10);
    let place = Place::with_logs("s3://logs", "").with_env(proxy.env());
    move_state(&place);
    let mut runs = Vec::new();
    for _ in 0..12 {
        runs.push(place.run(&["run", "--wait"]));
        if runs.last().is_some_and(|run| run.code == 0) {
            break;
        }
    }
    let said: Vec<(i32, &str)> = runs.iter().map(|run| (run.code, run.stderr.as_str())).collect();
    assert_eq!(said.last().unwrap().0, 0, "{said:#?}");
    let calm = Place::with_logs("s3://logs", "").with_env(server.env());
    move_state(&calm);
    calm.json(0, &["run", "--wait", "--output", "json"]);
    assert_eq!(picture(&calm), picture(&folder), "{said:#?}");
    assert_eq!(
        calm.query("SELECT status, COUNT(*) AS n FROM objects GROUP BY status"),
        [json!({"status": "ingested", "n": 35})]
    );
}

/// Files of a table of the state, as the Delta log has them.
fn files(place: &Place, table: &str) -> usize {
    fn count(folder: &std::path::Path) -> usize {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| match path.is_dir() {
                true if path.ends_with("_delta_log") => 0,
                true => count(&path),
                false => usize::from(path.extension().is_some_and(|extension| extension == "parquet")),
            })
            .sum()
    }
    count(&place.path("state/tables").join(table))
}

#[test]
fn many_small_batches_are_folded_and_old_hours_dropped() {
    let place = Place::new("");
    let whole = Place::new("");
    let agent = "Player/1";
    for batch in 0..19 {
        let lines: Vec<String> = (0..5)
            .map(|n| {
                line(&format!("20:{:02}:{n:02}", batch % 3), "198.18.0.1", "HomeSess0001", batch * 10 + n, 200, agent)
            })
            .collect();
        place.write_log(&format!("E1.2026-11-20-20.{batch:04}.gz"), &lines);
        whole.write_log(&format!("E1.2026-11-20-20.{batch:04}.gz"), &lines);
        place.json(0, &["run", "--output", "json"]);
    }
    whole.json(0, &["run", "--output", "json"]);
    assert_eq!(picture(&place), picture(&whole));
    let stored = place.query("SELECT COUNT(*) AS n FROM stored_activity");
    assert!(stored[0]["n"].as_i64().unwrap() <= 3 + 2, "three minutes, and what came after the folding: {stored:?}");
    let known = place.query("SELECT COUNT(*) AS n FROM stored_objects");
    assert_eq!(known, [json!({"n": 19})], "the ledger is compacted, not folded");
    assert!(files(&place, "activity") > 17, "a reader of an older version still finds its files");
    assert!(place.path("state/vacuumed").exists());

    // Three days later the hour is dropped; the ledger and the history stay, and nothing is read again.
    let later = place.json(3, &["run", "--now", "2026-11-23T22:00:00Z", "--output", "json"]);
    assert_eq!(later["objects"]["ingested"], 0);
    assert_eq!(place.query("SELECT * FROM activity"), Vec::<Value>::new());
    assert_eq!(place.query("SELECT COUNT(*) AS n FROM objects"), [json!({"n": 19})]);
}

#[test]
fn a_time_without_runs_is_made_up_for_and_said() {
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &[line("20:00:00", "198.18.0.1", "HomeSess0001", 1, 200, "x")]);
    place.json(0, &["run", "--output", "json"]);
    // Two days later, an object of an hour that `lookback` alone would not read any more.
    place.write_log("E1.2026-11-20-21.bbbb.gz", &[line("20:59:00", "198.18.0.1", "HomeSess0001", 2, 200, "x")]);
    let summary = place.json(3, &["run", "--now", "2026-11-22T23:30:00Z", "--output", "json"]);
    assert_eq!(summary["objects"]["ingested"], 1);
    let alarm = summary["alarms"][0].as_str().unwrap();
    assert!(alarm.contains("2026-11-20T21:00:00Z") && alarm.contains("2026-11-22T23:30:00Z"), "{alarm}");
    assert_eq!(place.json(0, &["run", "--now", "2026-11-22T23:31:00Z", "--output", "json"])["alarms"], json!([]));
    // Also where no run was done whole: one of two places is not there.
    let lame = Place::new("[[logs]]\nlocation = \"nowhere\"");
    lame.json(1, &["run", "--output", "json"]);
    lame.write_log("E1.2026-11-20-21.bbbb.gz", &[line("20:59:00", "198.18.0.1", "HomeSess0001", 2, 200, "x")]);
    let summary = lame.json(1, &["run", "--now", "2026-11-22T23:30:00Z", "--output", "json"]);
    assert_eq!(summary["objects"]["ingested"], 1, "{summary}");
    assert!(summary["alarms"].to_string().contains("no run was done whole"), "{summary}");
    // A new place does not read years of logs for it.
    let fresh = Place::new("");
    fresh.write_log("E1.2026-11-18-20.aaaa.gz", &[line("20:00:00", "198.18.0.1", "HomeSess0001", 1, 200, "x")]);
    assert_eq!(fresh.json(0, &["run", "--output", "json"])["objects"]["listed"], 0);
}
