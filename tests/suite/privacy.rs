//! What of viewers is kept, and in which form.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::{Place, shared, write_gzip};

const TABLES: [&str; 12] = [
    "activity",
    "refusals",
    "deliveries",
    "credentials",
    "findings",
    "revocations",
    "active_revocations",
    "enforcement",
    "syncs",
    "notifications",
    "objects",
    "runs",
];

/// All that the state holds, as text.
fn whole_state(place: &Place) -> String {
    let tables = TABLES.iter().flat_map(|table| place.query(&format!("SELECT * FROM {table}")));
    tables.map(|row| row.to_string() + "\n").collect()
}

/// The addresses in the logs of the demo.
fn logged_addresses(place: &Place) -> BTreeSet<String> {
    let rows = place.query("SELECT DISTINCT ip FROM requests");
    rows.iter().map(|row| row["ip"].as_str().unwrap().to_owned()).collect()
}

fn revoked(place: &Place) -> Vec<Value> {
    place.query("SELECT session_id, detector, score FROM revocations WHERE event = 'revoked' ORDER BY session_id")
}

#[test]
fn with_digests_no_address_is_kept_and_the_same_is_found() {
    let keep = Place::with_fixtures("");
    keep.json(0, &["run", "--output", "json"]);
    let addresses = logged_addresses(&keep);
    assert!(addresses.len() > 100);
    let state = whole_state(&keep);
    assert!(
        addresses.iter().any(|address| state.contains(&format!("\"{address}\""))),
        "what is looked for can be found"
    );

    let hash = Place::with_fixtures("[privacy]\naddresses = \"hash\"");
    hash.json(0, &["run", "--output", "json"]);
    assert_eq!(revoked(&hash), revoked(&keep));
    let state = whole_state(&hash);
    let kept: Vec<&String> = addresses.iter().filter(|address| state.contains(&format!("\"{address}\""))).collect();
    assert!(kept.is_empty(), "{kept:?}");
    // As many networks, and the same ones in the next run and in the logs themselves.
    let networks = |place: &Place, table: &str| {
        place.query(&format!("SELECT COUNT(DISTINCT network) AS n FROM {table}"))[0]["n"].clone()
    };
    assert_eq!(networks(&hash, "activity"), networks(&keep, "activity"));
    let joined =
        hash.query("SELECT COUNT(DISTINCT network) AS n FROM requests WHERE network IN (SELECT network FROM activity)");
    assert_eq!(joined[0]["n"], networks(&keep, "activity"));
    let key = fs::metadata(hash.path("state/address-key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    // Whoever reads the logs with another key sees other digests.
    let other = Place::with_fixtures("[privacy]\naddresses = \"hash\"\nkey_file = \"key\"");
    fs::write(other.path("key"), "0123456789abcdef0123456789abcdef\n").unwrap();
    other.json(0, &["run", "--output", "json"]);
    assert!(!other.path("state/address-key").exists());
    let least = |place: &Place| place.query("SELECT MIN(network) AS least FROM activity");
    assert_ne!(least(&other), least(&hash));
}

#[test]
fn truncated_addresses_are_those_of_a_neighbourhood() {
    let place = Place::with_fixtures("[privacy]\naddresses = \"truncate\"");
    assert!(place.run(&["run"]).code == 0);
    let rows = place.query("SELECT DISTINCT ip, network FROM activity");
    assert!(rows.len() > 30);
    for row in rows {
        let (ip, network) = (row["ip"].as_str().unwrap(), row["network"].as_str().unwrap());
        assert!(ip.ends_with(".0") && network == ip || network.ends_with("::/64") && ip.ends_with("::"), "{row}");
    }
}

#[test]
fn allowed_networks_are_spared_whatever_is_stored() {
    for privacy in ["keep", "truncate", "hash"] {
        let place = Place::new(&format!(
            "[privacy]\naddresses = \"{privacy}\"\n[[allow]]\nnetwork = \"198.18.0.0/24\"\nreason = \"monitoring\""
        ));
        place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 30));
        let run = place.json(0, &["run", "--output", "json"]);
        assert_eq!((&run["revoked"], &run["spared"]["requests"]), (&0.into(), &120.into()), "{privacy}: {run}");
    }
    let place =
        Place::new("[privacy]\naddresses = \"truncate\"\n[[allow]]\nnetwork = \"198.18.0.7\"\nreason = \"monitoring\"");
    let output = place.run(&["run"]);
    assert!(output.code == 2 && output.stderr.contains("/24"), "{output:?}");
    let place = Place::new("[privacy]\naddresses = \"hash\"\nkey_file = \"nowhere\"");
    let output = place.run(&["run"]);
    assert!(output.code == 2 && output.stderr.contains("privacy.key_file"), "{output:?}");
}

#[test]
fn logs_have_the_run_id_and_no_address() {
    let place = Place::new("[guard]\nmax_new_revocations = 0\nmax_share = 0.0");
    let mut lines = shared("SharedSess01", 20, 10, 12);
    lines.push("2026-11-20\tnonsense\t198.18.0.1\n".to_owned());
    lines.push("2026-11-20\t20:20:20\tFRA2\tx\t198.18.0.2\tGET\td1\t/a\t999999\t-\tPlayer/198.18.0.3\t-\tid=198.18.0.4\tHit\t1\n".to_owned());
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    write_gzip(&place.path("logs/E1.2026-11-20-20.bbbb.gz"), "198.18.0.9 is no log\n");
    fs::write(place.path("logs/E1.2026-11-20-20.cccc.gz"), b"\x1f\x8b\x08198.18.0.5").unwrap();
    let mut command = place.command(&["run", "--output", "json", "--log-format", "json"]);
    let output = command.env("RUST_LOG", "streamwarden=debug").output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let summary: Value = serde_json::from_str(&stdout).unwrap();
    assert!(
        summary["rows"]["rejected"].as_u64().unwrap() > 0 && summary["objects"]["quarantined"].as_u64().unwrap() > 0,
        "{summary}"
    );
    assert!(stderr.lines().count() > 5, "{stderr}");
    for line in stderr.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(line["span"]["run_id"], summary["run_id"], "{line}");
        assert!(!line.to_string().contains("198.18."), "{line}");
    }
}

/// A session that goes on while the form of addresses changes seems to have twice its networks.
#[test]
fn another_form_of_addresses_blocks_nobody_who_was_not_blocked_before() {
    let place = Place::new("");
    // Six homes of two operators.
    let innocent = |minute: u32| -> Vec<String> {
        let apart = |line: String| {
            (4..=6).fold(line, |line, n| line.replace(&format!("198.18.0.{n}"), &format!("198.18.8.{n}")))
        };
        shared("InnocentSes1", 20, minute, 6).into_iter().map(apart).collect()
    };
    place.write_log("E1.2026-11-20-20.aaaa.gz", &innocent(10));
    let before = place.json(0, &["run", "--output", "json", "--now", "2026-11-20T20:14:30Z"]);
    assert_eq!(before["revoked"], 0, "{before}");
    let without_change = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    fs::write(place.path("streamwarden.toml"), without_change + "[privacy]\naddresses = \"hash\"\n").unwrap();
    place.write_log("E1.2026-11-20-20.bbbb.gz", &innocent(14));
    place.write_log("E1.2026-11-20-20.cccc.gz", &shared("SharedSess01", 20, 15, 20));
    let change = place.json(3, &["run", "--output", "json", "--now", "2026-11-20T20:20:00Z"]);
    assert!(change["alarms"][0].as_str().unwrap().contains("the form of stored addresses changed"), "{change}");
    assert_eq!(change["revoked"], 0, "{change}");
    let observed = place.query("SELECT session_id, reason FROM revocations WHERE event = 'observed' ORDER BY 1");
    assert_eq!(observed.len(), 2, "both look shared: {observed:?}");
    assert!(observed[0]["reason"].as_str().unwrap().contains("[privacy] addresses"), "{observed:?}");
    // What is in windows of one form blocks as ever; the alarm ends with the last window of two.
    place.write_log("E1.2026-11-20-20.dddd.gz", &shared("SharedSess01", 21, 0, 20));
    let after = place.json(3, &["run", "--output", "json", "--now", "2026-11-20T21:10:00Z"]);
    assert_eq!(after["revoked"], 1, "{after}");
    let over = place.json(0, &["run", "--output", "json", "--now", "2026-11-20T22:20:01Z"]);
    assert_eq!(over["alarms"], serde_json::json!([]));
    // A key that is lost is such a change, too.
    fs::remove_file(place.path("state/address-key")).unwrap();
    let lost = place.json(3, &["run", "--output", "json", "--now", "2026-11-20T22:30:00Z"]);
    assert!(lost["alarms"][0].as_str().unwrap().contains("changed at 2026-11-20T22:30:00Z"), "{lost}");
}
