//! Blocks and releases by hand.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Place, shared};

fn active(place: &Place) -> Vec<Value> {
    place.query("SELECT session_id, origin, expires_at FROM active_revocations ORDER BY session_id")
}

#[test]
fn who_is_restored_is_safe_from_detectors_for_a_while() {
    let config = "[detectors.secure_media_score]\nmode = \"off\"\n[guard]\nrestore_grace = \"1h\"";
    let place = Place::new(config);
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    let run = |now: &str| place.json(0, &["run", "--output", "json", "--now", now]);
    assert_eq!(run("2026-11-20T20:20:00Z")["revoked"], 1);
    let arguments =
        ["restore", "SharedSess01", "--reason", "a big family", "--now", "2026-11-20T20:25:00Z", "--output", "json"];
    assert_eq!(place.json(0, &arguments), json!({"sessions": ["SharedSess01"], "refused": {}}));
    assert_eq!(active(&place), Vec::<Value>::new());
    assert_eq!(place.json(3, &arguments)["refused"]["SharedSess01"], "it is neither blocked nor held");
    // Shared on, within the hour: seen, and left alone; an hour later no longer.
    place.write_log("E1.2026-11-20-20.bbbb.gz", &shared("SharedSess01", 20, 50, 12));
    let spared = run("2026-11-20T21:00:00Z");
    assert_eq!((&spared["revoked"], &spared["observed"]), (&json!(0), &json!(1)));
    place.write_log("E1.2026-11-20-22.cccc.gz", &shared("SharedSess01", 22, 5, 12));
    assert_eq!(run("2026-11-20T22:15:00Z")["revoked"], 1);
    let sql = "SELECT event, origin, actor, reason FROM revocations WHERE event IN ('restored', 'observed') ORDER BY sequence";
    let events = place.query(sql);
    assert_eq!((&events[0]["origin"], &events[0]["reason"]), (&json!("manual"), &json!("a big family")));
    assert!(events[0]["actor"].as_str().is_some_and(|actor| actor != "streamwarden"), "{events:?}");
    assert!(events[1]["reason"].as_str().unwrap().contains("restored by hand 2026-11-20T20:25:00Z"), "{events:?}");
}

#[test]
fn what_is_blocked_by_hand_stays_so_until_its_time_is_over() {
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    assert_eq!(place.json(0, &["run", "--output", "json"])["revoked"], 1);
    // A list: one that is blocked already, one that nobody has seen, one that can be no id.
    let mut child = place
        .command(&["revoke", "-", "--ttl", "2h", "--output", "json"])
        .env("STREAMWARDEN_ACTOR", "support desk")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"SharedSess01\n  UnseenSess01  \n\nno.id|.*\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(done["sessions"], json!(["SharedSess01", "UnseenSess01"]));
    assert!(done["refused"]["no.id|.*"].as_str().unwrap().contains("--credential"), "{done}");
    let expected =
        |session: &str| json!({"session_id": session, "origin": "manual", "expires_at": "2026-11-20T23:00:00Z"});
    assert_eq!(active(&place), [expected("SharedSess01"), expected("UnseenSess01")]);
    assert_eq!(place.json(0, &["waf", "plan", "--output", "json"])["sessions"], 2);
    let seen = place.json(0, &["explain", "SharedSess01", "--output", "json"])["seen"].clone();
    assert_eq!(seen["token_expires"], "2026-11-21T00:00:00Z", "what is known of its tokens is still known");
    // Found again meanwhile, with a longer block due: a person's word stands. It ends in time.
    place.write_log("E1.2026-11-20-22.bbbb.gz", &shared("SharedSess01", 22, 40, 12));
    let later = place.json(0, &["run", "--output", "json", "--now", "2026-11-20T22:50:00Z"]);
    assert_eq!((&later["revoked"], &later["extended"], &later["waf"]["sessions"]), (&json!(0), &json!(0), &json!(2)));
    let over = place.json(0, &["run", "--output", "json", "--now", "2026-11-20T23:00:00Z"]);
    assert_eq!((&over["expired"], &over["waf"]["sessions"]), (&json!(2), &json!(0)));
    let actors = place.query("SELECT DISTINCT actor FROM revocations WHERE origin = 'manual' AND event = 'revoked'");
    assert_eq!(actors, [json!({"actor": "support desk"})]);
}

/// What WAF matches is known as long as a person blocks it, also days after the last request.
#[test]
fn a_long_block_by_hand_keeps_its_credentials() {
    let place = Place::new("[guard]\nttl_max = \"24h\"");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 2));
    place.json(0, &["run", "--output", "json"]);
    let at = |day: u32| format!("2026-11-{day}T21:00:00Z");
    place.json(0, &["revoke", "SharedSess01", "--ttl", "72h", "--output", "json", "--now", &at(25)]);
    for day in 25..28 {
        // Upkeep is due once a day of the machine's clock.
        let _ = fs::remove_file(place.path("state/vacuumed"));
        place.run(&["run", "--output", "json", "--now", &at(day)]);
        let plan = place.json(0, &["waf", "plan", "--output", "json", "--now", &at(day)]);
        assert_eq!(plan["sessions"], 1, "{day}: {plan}");
    }
    let _ = fs::remove_file(place.path("state/vacuumed"));
    place.run(&["run", "--output", "json", "--now", &at(28)]);
    let _ = fs::remove_file(place.path("state/vacuumed"));
    place.run(&["run", "--output", "json", "--now", &at(29)]);
    assert_eq!(place.query("SELECT * FROM credentials"), Vec::<Value>::new(), "and no longer");
}

#[test]
fn tokens_are_blocked_by_their_fragment() {
    let place = Place::new("");
    let config = std::fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    let jwt = "scheme = \"jwt\"\ncookie = \"playback\"\nclaim = \"sid\"";
    std::fs::write(place.path("streamwarden.toml"), config.replace("scheme = \"secure-media-delivery\"", jwt)).unwrap();
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJzaWQiOiJUb2tlblNlc3MwMSJ9.q3VvT-2bWlY_9dXf4kzM0aBcDeFgHiJkLmNoPqRsTuV";
    // A signed cookie stands before it: a token is not taken for a signature.
    let both = std::fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    let signed = "[[session]]\nscheme = \"signed-cookie\"\n[[session]]";
    std::fs::write(place.path("streamwarden.toml"), both.replacen("[[session]]", signed, 1)).unwrap();
    let refused = place.run(&["revoke", "TokenSess01"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stdout.contains("a token or signature of it is needed"), "{refused:?}");
    assert_eq!(place.run(&["revoke", "TokenSess01", "--credential", "nonsense"]).code, 3);
    let other = place.run(&["revoke", "AnotherSess01", "--credential", token]);
    assert!(other.code == 3 && other.stdout.contains("of the session TokenSess01"), "{other:?}");
    assert_eq!(place.run(&["revoke", "TokenSess01", "--credential", token]).code, 0);
    let plan = place.run(&["waf", "plan"]).stdout;
    assert!(plan.contains("cookie:playback") && plan.contains("q3VvT-2bWlY_9dXf["), "{plan}");
    assert!(!plan.contains("BcDeFgHiJkLmNoPqRsTuV"), "never enough to play: {plan}");
}

#[test]
fn what_cannot_be_done_by_hand_is_refused_at_once() {
    let place = Place::new("");
    for (arguments, part) in [
        (vec!["revoke", "SomeSess0001", "--ttl", "9d"], "activity_retention"),
        (vec!["revoke", "SomeSess0001", "--ttl", "0s"], "longer than nothing"),
        (vec!["revoke", "SomeSess0001", "--sync"], "[waf] name and id"),
        (vec!["revoke", "-", "--credential", "x"], "for one session"),
        (vec!["restore", "-"], "no session on stdin"),
    ] {
        let output = place.run(&arguments);
        assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(part), "{arguments:?}: {output:?}");
    }
    assert!(!place.path("state").exists(), "nothing is written");
}

/// It is no lack of room.
#[test]
fn what_is_longer_than_a_rule_can_hold_is_refused_and_said() {
    let place = Place::new("");
    let long = "x".repeat(199);
    let refused = place.json(3, &["revoke", &long, "--output", "json"]);
    assert!(refused["refused"][&long].as_str().unwrap().contains("longer than a rule"), "{refused}");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared(&long, 20, 10, 12));
    let run = place.json(3, &["run", "--output", "json"]);
    assert_eq!((&run["revoked"], &run["waf"]["sessions"]), (&json!(1), &json!(0)));
    let alarms = run["alarms"].as_array().unwrap();
    assert!(alarms.len() == 1 && alarms[0].as_str().unwrap().contains("longer than a rule"), "{alarms:?}");
    let fits = "x".repeat(198);
    assert_eq!(place.json(0, &["revoke", &fits, "--output", "json"])["sessions"], json!([fits]));
}
