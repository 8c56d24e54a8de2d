//! What replay is for beyond finding: sweeps, baselines, the time to block, the page.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::support::browser::{look_at, photograph};
use crate::support::{Place, fixtures, line, shared};

fn labels() -> String {
    fixtures().join("labels.csv").display().to_string()
}

fn evening(time: &str) -> DateTime<Utc> {
    format!("2026-11-2{time}Z").parse().unwrap()
}

/// Sets when a file arrived.
fn arrive(path: &Path, at: DateTime<Utc>) {
    fs::File::options().write(true).open(path).unwrap().set_modified(SystemTime::from(at)).unwrap();
}

/// The half of a session's networks is not enough; what replay says of the other half's arrival is what runs do.
#[test]
fn sessions_are_blocked_when_replay_says_that_they_would_be() {
    let config = "[schedule]\nevery = \"5m\"";
    let place = Place::new(config);
    // Objects, and when each arrives: the first halves on time, the second ones later and later.
    let mut objects: Vec<(String, DateTime<Utc>, Vec<String>)> = Vec::new();
    for (number, (session, arrival)) in [
        ("PromptSess01", "0T20:19:30"),
        ("ExactlySess1", "0T20:20:00"),
        ("LateLateSes1", "0T23:16:10"),
        ("TooLateSess1", "1T00:00:30"),
        ("LonelySess01", "0T20:41:00"),
    ]
    .into_iter()
    .enumerate()
    {
        let lines = shared(session, 20, 10, if session == "LonelySess01" { 1 } else { 12 });
        let half = lines.len() / 2;
        objects.push((format!("{number}a"), evening("0T20:15:20"), lines[..half].to_vec()));
        objects.push((format!("{number}b"), evening(arrival), lines[half..].to_vec()));
    }
    objects.push((
        "home".into(),
        evening("0T20:59:59"),
        vec![line("20:50:00", "198.18.9.9", "HomeSess0001", 1, 200, "x")],
    ));
    objects.sort_by_key(|(_, arrival, _)| *arrival);

    let mut passes: Vec<DateTime<Utc>> = Vec::new();
    for (name, arrival, lines) in &objects {
        let file = format!("E1.2026-11-20-20.{name}.gz");
        place.write_log(&file, lines);
        arrive(&place.path("logs").join(file), *arrival);
        let tick = DateTime::from_timestamp((arrival.timestamp() + 299) / 300 * 300, 0).unwrap();
        passes.push(tick);
    }
    let replayed = place.json(0, &["replay", "--output", "json"]);
    assert!(!place.path("state").exists());

    // The same logs, as they come, under the schedule.
    let real = Place::new(config);
    passes.dedup();
    for pass in &passes {
        for (name, arrival, _) in objects.iter().filter(|(_, arrival, _)| arrival <= pass) {
            let file = format!("E1.2026-11-20-20.{name}.gz");
            fs::copy(place.path("logs").join(&file), real.path("logs").join(&file)).unwrap();
            arrive(&real.path("logs").join(&file), *arrival);
        }
        let now = pass.to_rfc3339();
        assert_eq!(real.run(&["run", "--now", &now]).code, 0);
    }
    let rows = real.query("SELECT session_id, time FROM revocations WHERE event = 'revoked'");
    let really: BTreeMap<String, Value> =
        rows.into_iter().map(|row| (row["session_id"].as_str().unwrap().to_owned(), row["time"].clone())).collect();

    let revocations = replayed["revocations"].as_array().unwrap();
    let said: BTreeMap<String, Value> = revocations
        .iter()
        .filter(|revocation| !revocation["blocked_at"].is_null())
        .map(|revocation| (revocation["session_id"].as_str().unwrap().to_owned(), revocation["blocked_at"].clone()))
        .collect();
    let expected = [
        ("ExactlySess1", "2026-11-20T20:20:00Z"),
        ("LateLateSes1", "2026-11-20T23:20:00Z"),
        ("PromptSess01", "2026-11-20T20:20:00Z"),
    ];
    assert_eq!(said, expected.map(|(session, time)| (session.to_owned(), json!(time))).into());
    assert_eq!(really, said);
    let too_late = revocations.iter().find(|revocation| revocation["session_id"] == "TooLateSess1").unwrap();
    assert!(too_late["not_blocked"].as_str().unwrap().contains("token has expired"), "{too_late}");
    assert_eq!(too_late["shared_at"], "2026-11-20T20:10:00Z");
    let delivery = &replayed["delivery"];
    assert_eq!(
        (&delivery["unknown"], &delivery["blocked"], &delivery["not_blocked"], &delivery["schedule_seconds"]),
        (&Value::Null, &json!(3), &json!(1), &json!(300.0))
    );
    // From 20:10 to 20:20, 20:20 and 23:20.
    assert_eq!(delivery["seconds_to_block"], json!({"median": 600.0, "p95": 11_400.0, "worst": 11_400.0}));
    let text = place.run(&["replay"]).stdout;
    assert!(text.contains("median 10.0 min, 95 % within 190.0 min; 3 of 4 blocked"), "{text}");
}

#[test]
fn each_row_of_a_sweep_is_what_a_replay_with_these_settings_finds() {
    let place = Place::with_fixtures("");
    let sweeps = [
        "--sweep",
        "many_ips.max_networks=4..16:6",
        "--sweep",
        "secure_media_score.threshold=1.5..4.5:1.5",
        "--sweep",
        "many_ips.window=15m..30m:15m",
    ];
    let swept = place.json(0, &[&["replay", "--labels", &labels(), "--output", "json"], &sweeps[..]].concat());
    let rows = swept["sweep"].as_array().unwrap();
    assert_eq!(rows.len(), 3 * 3 * 2);
    // The last one changes fastest.
    let settings = |networks: i64, threshold: f64, window: &str| json!({"many_ips.max_networks": networks, "secure_media_score.threshold": threshold, "many_ips.window": window});
    assert_eq!(rows[0]["settings"], settings(4, 1.5, "15m"));
    assert_eq!(rows[1]["settings"], settings(4, 1.5, "30m"));
    assert_eq!(rows[17]["settings"], settings(16, 4.5, "30m"));
    for (place_in_grid, (networks, threshold, window)) in
        [(0, (4, 1.5, "15m")), (9, (10, 3.0, "30m")), (17, (16, 4.5, "30m"))]
    {
        let row = &rows[place_in_grid];
        assert_eq!(row["settings"], settings(networks, threshold, window));
        let config = format!(
            "[detectors.many_ips]\nmax_networks = {networks}\nwindow = \"{window}\"\n[detectors.secure_media_score]\nthreshold = {threshold:?}"
        );
        let alone = Place::with_fixtures(&config).json(0, &["replay", "--labels", &labels(), "--output", "json"]);
        assert_eq!(row["overall"], alone["evaluation"]["overall"], "{row}");
        assert_eq!(row["revocations"], json!(alone["revocations"].as_array().unwrap().len()));
        for detector in ["many_ips", "secure_media_score"] {
            assert_eq!(row["detectors"][detector], alone["evaluation"]["detectors"][detector], "{row}");
        }
    }
    // What is swept does not touch what the config says.
    let plain = place.json(0, &["replay", "--labels", &labels(), "--output", "json"]);
    for key in ["findings", "revocations", "evaluation", "held"] {
        assert_eq!(swept[key], plain[key], "{key}");
    }
    assert!(plain.get("sweep").is_none());
    let different: std::collections::BTreeSet<String> = rows.iter().map(|row| row["detectors"].to_string()).collect();
    assert!(different.len() > 5, "the settings make a difference: {different:?}");
    let text = place.run(&[&["replay", "--labels", &labels()], &sweeps[..2]].concat()).stdout;
    assert!(
        text.contains("many_ips.max_networks  blocked  true +") && text.contains("many_ips alone: P R F1"),
        "{text}"
    );
}

#[test]
fn a_baseline_tells_what_a_change_of_rules_adds_and_removes() {
    let place = Place::with_fixtures("");
    let then = place.run(&["replay", "--output", "json"]).stdout;
    let baseline = place.path("then.json");
    fs::write(&baseline, &then).unwrap();
    let baseline = baseline.to_str().unwrap();
    let compare = |config: &str, logs: &[&str]| {
        let place = Place::with_fixtures(config);
        place.json(0, &[&["replay", "--labels", &labels(), "--baseline", baseline, "--output", "json"], logs].concat())
            ["baseline"]
            .clone()
    };
    let ids = |rows: &Value| -> Vec<String> {
        rows.as_array().unwrap().iter().map(|row| row["session_id"].as_str().unwrap().to_owned()).collect()
    };
    let same = compare("", &[]);
    assert_eq!(same, json!({"added": [], "removed": [], "changed": [], "same": 8, "same_logs": true}));
    // Counting alone, and strongly: some are blocked otherwise, and the score of the AWS solution adds innocent ones.
    let other = compare(
        "[detectors.secure_media_score]\nmode = \"enforce\"\n[detectors.many_user_agents]\nmode = \"off\"",
        &[],
    );
    let added = other["added"].as_array().unwrap();
    assert!(added.iter().any(|row| row["label"] == "benign" && row["kind"] == "casting"), "{other}");
    assert!(added.iter().all(|row| row["detectors"] == json!(["secure_media_score"])), "{other}");
    let changed = &other["changed"].as_array().unwrap()[0];
    assert!(changed["was"]["detectors"] != changed["detectors"] && changed["label"] == "pirate", "{changed}");
    let none = compare(
        "[detectors.many_ips]\nmode = \"off\"\n[detectors.concurrent_networks]\nmode = \"off\"\n[detectors.same_segment]\nmode = \"off\"\n\
         [detectors.many_countries]\nmode = \"off\"\n[detectors.country_overlap]\nmode = \"off\"\n[detectors.country_hops]\nmode = \"off\"\n\
         [detectors.impossible_travel]\nmode = \"off\"\n[detectors.network_fanout]\nmode = \"off\"\n[detectors.media_overrun]\nmode = \"off\"",
        &[],
    );
    assert_eq!(ids(&none["removed"]), ["E8V29tYE59s3", "Jy7EeBkZRV5n", "VMXZAn7w4ZC1", "sv6bxQD8SvB3", "xLTdYFp5qPVV"]);
    assert_eq!((&none["added"], &none["removed"][0]["label"]), (&json!([]), &json!("pirate")));
    let empty = Place::new("");
    let logs = empty.path("logs");
    assert_eq!(compare("", &["--logs", logs.to_str().unwrap()])["same_logs"], false);
}

#[test]
fn what_replay_cannot_do_is_refused_before_anything_is_read() {
    let place = Place::with_fixtures("[detectors.leaked_token]\nmode = \"off\"");
    fs::write(place.path("broken.json"), "{\"rows\": 1}").unwrap();
    let report = place.path("no/such/folder.html");
    for (arguments, part) in [
        (["--sweep", "many_ips"], "DETECTOR.PARAM=LO..HI"),
        (["--sweep", "many_ips.max_networks=9..4"], "from a lower to a higher"),
        (["--sweep", "many_ips.max_networks=4..9:0"], "more than nothing"),
        (["--sweep", "many_ips.max_networks=0..9"], "at least 1"),
        (["--sweep", "many_ips.max_networks=4.5..9.5"], "of another type"),
        (["--sweep", "many_ips.max_networks=1..5000"], "more than 1000"),
        (["--sweep", "many_ips.max_network=4..9"], "did you mean"),
        (["--sweep", "many_ip.max_networks=4..9"], "did you mean"),
        (["--sweep", "leaked_token.least=1..2"], "switched on"),
        (["--sweep", "many_ips.window=1m..2m:1m"], "longer"),
        (["--sweep", "many_ips.window=1..2"], "length of time"),
        (["--sweep", "many_ips.windw=5m..10m"], "did you mean"),
        (["--sweep", "many_ips.ttl=1h..2h"], "can be swept"),
        (["--baseline", "missing.json"], "missing.json"),
        (["--baseline", "broken.json"], "is not what `replay --output json` prints"),
        (["--report", report.to_str().unwrap()], "cannot be written"),
        (["--report", "/"], "it is a folder"),
    ] {
        let output = place.run(&["replay", arguments[0], arguments[1]]);
        assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(part), "{arguments:?}: {output:?}");
    }
    let many: Vec<String> = (0..9).map(|n| format!("--sweep=many_ips.x{n}=1..1000")).collect();
    let many: Vec<&str> = std::iter::once("replay").chain(many.iter().map(String::as_str)).collect();
    assert!(place.run(&many).stderr.contains("more than 1000 combinations"));
    // Only together do these two make sense.
    let both =
        ["replay", "--sweep", "many_ips.window=2m..4m:1m", "--sweep", "many_ips.every=1m..2m:1m", "--output", "json"];
    assert_eq!(place.json(0, &both)["sweep"].as_array().unwrap().len(), 6);
    let twice = ["replay", "--sweep", "many_ips.max_networks=4..5", "--sweep", "many_ips.max_networks=6..7"];
    assert!(place.run(&twice).stderr.contains("twice"));
}

#[test]
fn the_report_is_a_page_that_a_browser_shows() {
    let place = Place::with_fixtures("[detectors.many_user_agents]\nmax_user_agents = 12");
    fs::write(place.path("then.json"), Place::with_fixtures("").run(&["replay", "--output", "json"]).stdout).unwrap();
    // Names of kinds are anybody's: they stay text.
    let hostile = "<img src=x onerror=document.title='run'>\u{202e}";
    let text = fs::read_to_string(fixtures().join("labels.csv")).unwrap();
    fs::write(place.path("labels.csv"), text.replace("two_homes", hostile)).unwrap();
    let logs = place.path("delivered");
    fs::create_dir(&logs).unwrap();
    for object in fs::read_dir(fixtures().join("standard")).unwrap() {
        let object = object.unwrap().path();
        let copy = logs.join(object.file_name().unwrap());
        fs::copy(&object, &copy).unwrap();
    }
    delivered(&place, &logs);
    let page = place.path("report.html");
    let arguments = [
        "replay",
        "--logs",
        logs.to_str().unwrap(),
        "--labels",
        "labels.csv",
        "--report",
        "report.html",
        "--baseline",
        "then.json",
        "--sweep",
        "many_ips.max_networks=4..16:4",
        "--output",
        "json",
    ];
    let replayed = place.json(0, &arguments);

    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("default-src 'none'"), "nothing may be loaded or run");
    let without_names = html.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "<script", "<img", "<link", "<iframe", " href=", "url(", "\u{202e}"] {
        assert!(!without_names.contains(outside), "{outside}");
    }
    for width in [1_100, 480] {
        let seen = look_at(&page, width);
        let section = |id: &str| {
            let sections = seen["sections"].as_array().unwrap();
            sections.iter().find(|section| section["id"] == id).unwrap_or_else(|| panic!("no section {id}")).clone()
        };
        let count = |id: &str, what: &str| section(id)[what].as_u64().unwrap();
        assert_eq!(
            (&seen["title"], &seen["images"], &seen["loaded"]),
            (&json!("streamwarden replay"), &json!(0), &json!([]))
        );
        assert!(seen["scroll_width"].as_u64() <= seen["width"].as_u64(), "the page is wider than the window: {seen}");
        assert_eq!((&seen["empty"], &seen["outside"], &seen["overlaps"]), (&json!(0), &json!([]), &json!([])));
        assert_eq!(count("kinds", "rows"), 12);
        assert!(section("kinds")["text"].as_str().unwrap().contains("<img src=x onerror"), "{seen}");
        assert_eq!(count("blocks", "rows"), replayed["revocations"].as_array().unwrap().len() as u64);
        assert_eq!((count("sweep", "rows"), count("sweep", "drawings")), (4, 1));
        let changes = |name: &str| replayed["baseline"][name].as_array().unwrap().len() as u64;
        assert_eq!(count("baseline", "rows"), changes("added") + changes("removed") + changes("changed"));
        assert!(count("baseline", "rows") > 0);
        assert_eq!(count("delivery", "drawings"), 1);
        assert!(section("delivery")["text"].as_str().unwrap().contains("95th percentile"));
        // A curve and a distribution for each detector that comes near to anybody.
        assert!(count("detectors", "drawings") >= 18, "{}", section("detectors"));
        assert!(count("timelines", "drawings") >= 8);
    }
    // For people to look at: target/report.png.
    let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.png");
    photograph(&page, &picture, (1_060, 6_000));
    let picture = fs::read(picture).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
}

/// Gives the objects of a folder the times of a delivery: ten minutes after their last request.
fn delivered(place: &Place, logs: &Path) {
    place.json(0, &["run", "--output", "json"]);
    for row in place.query("SELECT key, last_time FROM objects") {
        let last: DateTime<Utc> = row["last_time"].as_str().unwrap().parse().unwrap();
        arrive(&logs.join(row["key"].as_str().unwrap()), last + chrono::TimeDelta::minutes(10));
    }
}
