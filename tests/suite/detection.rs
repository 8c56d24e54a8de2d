//! How well the detectors do, on the fixtures and on traffic that nobody has looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::model;
use crate::support::{Place, fixtures, line, shared, unbound};

#[test]
fn replay_finds_every_labelled_pirate_and_no_benign_viewer() {
    let place = Place::with_fixtures("");
    let labels = fixtures().join("labels.csv");
    let replayed = place.json(0, &["replay", "--labels", labels.to_str().unwrap(), "--output", "json"]);
    let overall = &replayed["evaluation"]["overall"];
    assert_eq!(
        overall,
        &json!({"true_positives": 8, "false_positives": 0, "false_negatives": 0, "precision": 1.0, "recall": 1.0, "f1": 1.0})
    );
    assert_eq!((&replayed["rows"], &replayed["sessions"]), (&json!(8059), &json!(100)));
    assert_eq!(replayed["held"], json!([]));
    for revocation in replayed["revocations"].as_array().unwrap() {
        let (decided, expires) =
            (revocation["decided_at"].as_str().unwrap(), revocation["expires_at"].as_str().unwrap());
        assert!(decided < expires && decided.ends_with(":00Z"), "{revocation}");
    }
    let finding = &replayed["findings"][0];
    assert!(finding["score"].as_f64().unwrap() > 1.0 && finding["evidence"].is_object(), "{finding}");
    assert!(!place.path("state").exists(), "nothing is written");

    let text = place.run(&["replay", "--labels", labels.to_str().unwrap()]).stdout;
    assert!(text.contains("8 sessions would have been blocked") && text.contains("all, blocked"), "{text}");
}

/// What the replays of some traffic came to.
#[derive(Default)]
struct Figures {
    /// Of each pirate kind, how many there were and how many were blocked.
    pirates: BTreeMap<String, (u64, u64)>,
    benign: usize,
    /// Benign sessions that were blocked.
    blocked: Vec<String>,
}

impl Figures {
    fn add(&mut self, place: &Place, scenario: &model::traffic::Scenario) {
        write_traffic(scenario, place);
        let path = place.path("labels.csv");
        let replayed = place.json(0, &["replay", "--labels", path.to_str().unwrap(), "--output", "json"]);
        let revoked: BTreeSet<&str> = sessions(&replayed["revocations"]);
        for row in csv::Reader::from_path(path).unwrap().into_deserialize::<(String, String, String)>() {
            let (session, label, kind) = row.unwrap();
            let blocked = revoked.contains(session.as_str());
            match label.as_str() {
                "pirate" => {
                    let counts = self.pirates.entry(kind).or_default();
                    *counts = (counts.0 + 1, counts.1 + u64::from(blocked));
                }
                "benign" => {
                    self.benign += 1;
                    self.blocked.extend(blocked.then(|| format!("{kind} {session} (seed {})", scenario.seed)));
                }
                _ => {}
            }
        }
    }
}

fn sessions(rows: &Value) -> BTreeSet<&str> {
    rows.as_array().unwrap().iter().map(|row| row["session_id"].as_str().unwrap()).collect()
}

/// An evening with every kind of session. One viewing is as long as in life, so that there are few of them.
fn wide(seed: u64) -> model::traffic::Scenario {
    let minutes = |n| n * model::networks::MINUTE;
    let views = model::views::Views { least: minutes(5), most: minutes(25) };
    model::traffic::Scenario { seed, sessions: 150, pirates: 32, views, mix: model::kinds::Mix::Wide, ..small() }
}

#[test]
fn unseen_traffic_of_the_plain_kinds() {
    let mut figures = Figures::default();
    for seed in [7_001, 7_002] {
        figures.add(&Place::new(""), &model::traffic::Scenario { seed, sessions: 160, pirates: 12, ..small() });
    }
    assert_eq!(figures.blocked, Vec::<String>::new(), "benign sessions were blocked");
    assert_eq!(figures.pirates.len(), 3);
    assert!(figures.pirates.values().all(|(all, caught)| all == caught), "{:?}", figures.pirates);
}

#[test]
fn unseen_traffic_of_every_kind() {
    let mut figures = Figures::default();
    for seed in [8_001, 8_002, 8_003] {
        figures.add(&Place::new(""), &wide(seed));
    }
    assert!(figures.benign > 340, "{}", figures.benign);
    assert_eq!(figures.blocked, Vec::<String>::new(), "benign sessions were blocked");
    assert_eq!(figures.pirates.len(), 8);
    for (kind, (all, caught)) in &figures.pirates {
        assert!(*all == 12 && *caught as f64 >= 0.85 * *all as f64, "{kind}: {caught} of {all}");
    }
    let (all, caught) = figures.pirates.values().fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    assert!(caught as f64 >= 0.95 * all as f64, "{caught} of {all}");
}

/// Without GeoIP files no address pool is known as one; what is left must still be right.
#[test]
fn nobody_is_blocked_for_what_is_not_known_of_networks() {
    let place = Place::new("");
    let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    let config: String =
        config.lines().take_while(|line| !line.starts_with("[geoip]")).map(|line| format!("{line}\n")).collect();
    fs::write(place.path("streamwarden.toml"), config).unwrap();
    let mut figures = Figures::default();
    figures.add(&place, &wide(8_004));
    assert_eq!(figures.blocked, Vec::<String>::new(), "benign sessions were blocked");
    // Of somebody who hides behind changing exits nothing is left to see, and three homes may be the pool of one phone.
    figures.pirates.remove("rotating_ripper");
    let (all, caught) = figures.pirates.remove("slow_ring").unwrap();
    assert!(2 * caught >= all, "{caught} of {all}");
    assert!(figures.pirates.values().all(|(all, caught)| all == caught), "{:?}", figures.pirates);
}

#[test]
fn the_committed_fixtures_are_what_the_generator_writes() {
    let place = Place::new("");
    write_traffic(&small(), &place);
    assert_eq!(
        fs::read_to_string(place.path("labels.csv")).unwrap(),
        fs::read_to_string(fixtures().join("labels.csv")).unwrap()
    );
    let committed = texts(&fixtures().join("standard"));
    let written = texts(&place.path("logs"));
    assert_eq!(committed.keys().collect::<Vec<_>>(), written.keys().collect::<Vec<_>>());
    for (name, text) in &committed {
        assert!(text == &written[name], "{name} differs: run cargo run --example generate");
    }
}

/// Every gzip file of a folder, unpacked: a new compressor may write other bytes for the same text.
fn texts(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut text = Vec::new();
        let file = fs::File::open(&path).unwrap();
        std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(file), &mut text).unwrap();
        texts.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), text);
    }
    texts
}

#[test]
fn the_guard_holds_a_detector_gone_mad_until_a_person_lets_it_through() {
    let mad = "[guard]\nmax_new_revocations = 2\nmax_share = 0.0";
    let place = Place::new(mad);
    let lines: Vec<String> = (0..3).flat_map(|n| shared(&format!("SharedSess{n:02}"), 20, 10, 12)).collect();
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    let held = place.json(3, &["run", "--output", "json"]);
    assert_eq!((&held["held"], &held["revoked"], &held["waf"]["sessions"]), (&json!(3), &json!(0), &json!(0)));
    assert!(held["alarms"][0].as_str().unwrap().contains("--release-held"), "{held}");
    let one = place.query("SELECT session_id FROM revocations WHERE event = 'held' LIMIT 1");
    let explained = place.run(&["explain", one[0]["session_id"].as_str().unwrap()]);
    assert!(explained.stdout.contains("no, held: `run --release-held`"), "{explained:?}");
    // Nothing new happened: they are held still, and not held anew.
    let again = place.json(3, &["run", "--output", "json"]);
    assert_eq!((&again["held"], &again["revoked"]), (&json!(0), &json!(0)));
    assert!(again["alarms"][0].as_str().unwrap().contains("3 sessions are held since earlier runs"), "{again}");
    let released = place.json(0, &["run", "--release-held", "--output", "json"]);
    assert_eq!((&released["revoked"], &released["waf"]["sessions"]), (&json!(3), &json!(3)));
    let events = place.query("SELECT event, COUNT(*) AS n FROM revocations GROUP BY event ORDER BY event");
    assert_eq!(events, [json!({"event": "held", "n": 3}), json!({"event": "released", "n": 3})]);
    assert_eq!(place.json(0, &["run", "--release-held", "--output", "json"])["revoked"], 0, "once");
}

#[test]
fn a_session_found_again_is_extended_and_one_that_comes_back_is_blocked_for_longer() {
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    let run = |now: &str| place.json(0, &["run", "--output", "json", "--now", now]);
    assert_eq!(run("2026-11-20T20:20:00Z")["revoked"], 1);
    place.write_log("E1.2026-11-20-20.bbbb.gz", &shared("SharedSess01", 20, 40, 12));
    let extended = run("2026-11-20T20:50:00Z");
    assert_eq!((&extended["revoked"], &extended["extended"]), (&json!(0), &json!(1)));
    let until = |now: &str| {
        let sql = "SELECT expires_at FROM active_revocations";
        let output = place.run(&["query", "--format", "json", "--now", now, sql]);
        output
            .stdout
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["expires_at"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(until("2026-11-20T20:50:00Z"), ["2026-11-20T21:50:00Z"]);
    assert_eq!(until("2026-11-20T21:50:00Z"), Vec::<Value>::new(), "over on time, even before a run says so");
    place.write_log("E1.2026-11-20-21.cccc.gz", &shared("SharedSess01", 21, 52, 12));
    let back = run("2026-11-20T21:58:00Z");
    assert_eq!((&back["expired"], &back["revoked"]), (&json!(1), &json!(1)));
    // Twice the first hour, but the token ends at midnight.
    assert_eq!(until("2026-11-20T21:58:00Z"), ["2026-11-20T23:58:00Z"]);
    place.write_log("E1.2026-11-20-23.dddd.gz", &shared("SharedSess01", 23, 55, 12));
    run("2026-11-20T23:59:00Z");
    assert_eq!(until("2026-11-20T23:59:00Z"), ["2026-11-21T00:00:00Z"]);
}

#[test]
fn an_unbound_session_is_observed_unless_the_config_says_otherwise() {
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &unbound(&shared("SharedSess01", 20, 10, 12)));
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&summary["revoked"], &summary["observed"]), (&json!(0), &json!(1)));
    let reason = &place.query("SELECT reason FROM revocations")[0]["reason"];
    assert!(reason.as_str().unwrap().contains("guard.enforce_unbound"), "{reason}");
    place.configure("logs", "[guard]\nenforce_unbound = true");
    assert_eq!(place.json(0, &["replay", "--output", "json"])["revocations"].as_array().unwrap().len(), 1);
}

#[test]
fn a_token_without_expiry_beside_an_expired_one_leaves_the_session_blockable() {
    let place = Place::new("");
    // {"ssn":true} and {"ssn":true,"exp":1700000000}
    let mut lines: Vec<String> = shared("SharedSess01", 20, 10, 12)
        .iter()
        .map(|line| line.replace("eyJzc24iOnRydWUsImV4cCI6MTc5NTIxOTIwMH0", "eyJzc24iOnRydWV9"))
        .collect();
    lines[0] = lines[0].replace("eyJzc24iOnRydWV9", "eyJzc24iOnRydWUsImV4cCI6MTcwMDAwMDAwMH0");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&summary["revoked"], &summary["observed"]), (&json!(1), &json!(0)));
}

#[test]
fn a_detector_on_trial_does_not_hide_what_the_others_decide() {
    let place = Place::new("[detect]\nqueries = \"mine\"\n[detectors.trial]\nmode = \"observe\"");
    fs::create_dir(place.path("mine")).unwrap();
    let sql = "-- [detector]\n-- description = \"d\"\n-- family = \"mine\"\n-- strength = \"strong\"\n-- window = \"6h\"\n\
               -- every = \"1h\"\n-- ttl = \"1h\"\n-- scope = \"session\"\n-- false_positives = \"all\"\n\
               SELECT session_id, 1.5 AS score FROM activity GROUP BY session_id\n";
    fs::write(place.path("mine/trial.sql"), sql).unwrap();
    let lines = shared("SharedSess01", 20, 10, 12);
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines[..4]);
    let first = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&first["observed"], &first["revoked"]), (&json!(1), &json!(0)));
    place.write_log("E1.2026-11-20-20.bbbb.gz", &lines[4..]);
    assert_eq!(place.json(0, &["run", "--output", "json"])["revoked"], 1);
}

#[test]
fn overrides_of_a_detector_and_detectors_of_ones_own() {
    let place = Place::new("[detectors.many_ips]\nmax_networks = 20\n[detectors.many_user_agents]\nmode = \"off\"");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    assert_eq!(place.json(0, &["replay", "--output", "json"])["findings"], json!([]));
    place.configure("logs", "[detectors.many_ips]\nstrength = \"strong\"");
    let strong = place.json(0, &["replay", "--output", "json"]);
    assert_eq!(strong["revocations"][0]["detectors"], json!(["many_ips", "many_user_agents"]));

    fs::create_dir(place.path("mine")).unwrap();
    let sql = "-- [detector]\n-- description = \"Too much\"\n-- family = \"volume\"\n-- strength = \"strong\"\n-- window = \"10m\"\n\
               -- every = \"10m\"\n-- ttl = \"2h\"\n-- scope = \"all\"\n-- false_positives = \"none\"\n-- [params]\n-- most = 30\n\
               SELECT session_id, SUM(requests) * 1.0 / $most AS score, array_agg(DISTINCT country) AS countries\n\
               FROM activity WHERE user_agent NOT IN (SELECT value FROM own_agents)\n\
               GROUP BY session_id HAVING SUM(requests) > $most\n";
    fs::write(place.path("mine/too_much.sql"), sql).unwrap();
    place.configure(
        "logs",
        "[detect]\nqueries = \"mine\"\n[lists]\nown_agents = [\"Player/0\"]\n[detectors.too_much]\nmost = 40",
    );
    let found = place.json(0, &["replay", "--output", "json"]);
    let own: Vec<&Value> =
        found["findings"].as_array().unwrap().iter().filter(|f| f["detector"] == "too_much").collect();
    // 12 homes with 4 segments, less the listed agent's.
    assert_eq!((&own[0]["score"], &own[0]["strength"]), (&json!(1.1), &json!("strong")));
    assert!(own[0]["evidence"]["countries"].is_array(), "{own:?}");
}

#[test]
fn a_finding_that_a_later_evaluation_no_longer_makes_is_withdrawn() {
    let place = Place::new("[detect]\nqueries = \"mine\"");
    fs::create_dir(place.path("mine")).unwrap();
    let sql = "-- [detector]\n-- description = \"Alone in the window\"\n-- family = \"mine\"\n-- strength = \"weak\"\n\
               -- window = \"10m\"\n-- every = \"10m\"\n-- ttl = \"1h\"\n-- scope = \"all\"\n-- false_positives = \"all\"\n\
               SELECT MIN(session_id) AS session_id, 1.0 AS score FROM activity HAVING COUNT(DISTINCT session_id) = 1\n";
    fs::write(place.path("mine/alone.sql"), sql).unwrap();
    let found = || place.query("SELECT session_id FROM findings WHERE detector = 'alone'");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 11, 1));
    place.json(0, &["run", "--output", "json"]);
    assert_eq!(found(), [json!({"session_id": "SharedSess01"})]);
    place.write_log("E1.2026-11-20-20.bbbb.gz", &shared("SharedSess02", 20, 11, 1));
    place.json(0, &["run", "--output", "json"]);
    assert_eq!(found(), Vec::<Value>::new());
}

#[test]
fn a_detector_that_fails_is_named_and_its_windows_are_made_up_for() {
    let place = Place::new("");
    fs::create_dir(place.path("mine")).unwrap();
    let detector = |score: &str| {
        format!(
            "-- [detector]\n-- description = \"d\"\n-- family = \"mine\"\n-- strength = \"strong\"\n-- window = \"30m\"\n-- every = \"5m\"\n\
             -- ttl = \"1h\"\n-- scope = \"session\"\n-- false_positives = \"none\"\n\
             SELECT session_id, {score} AS score FROM activity GROUP BY session_id\n"
        )
    };
    fs::write(place.path("mine/fickle.sql"), detector("CAST(1 AS DOUBLE) / (SUM(requests) - SUM(requests))")).unwrap();
    place.configure("logs", "[detect]\nqueries = \"mine\"");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 6));
    let output = place.run(&["run"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("detector fickle") && output.stderr.contains("no finite score"), "{output:?}");
    assert_eq!(
        place.query("SELECT DISTINCT detector FROM findings"),
        [json!({"detector": "many_user_agents"})],
        "the others worked"
    );
    fs::write(place.path("mine/fickle.sql"), detector("2.5")).unwrap();
    let mended = place.json(0, &["run", "--output", "json"]);
    assert_eq!(mended["objects"]["ingested"], 0);
    assert_eq!((&mended["detectors"]["fickle"]["findings"], &mended["revoked"]), (&json!(6), &json!(1)));
}

/// The files of ../shared are real logs of other people: they are read there, where they are, and never kept.
#[test]
fn logs_of_twelve_twenty_four_and_thirty_three_columns() {
    let place = Place::new("");
    let rows = [
        (
            "#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) cs-uri-query",
            "-\tMozilla\t-",
        ),
        (
            "#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken x-forwarded-for ssl-protocol ssl-cipher x-edge-response-result-type cs-protocol-version",
            "-\tMozilla\t-\t-\tHit\tid1\tmedia.example.com\thttps\t30\t0.001\t-\t-\t-\tHit\tHTTP/1.1",
        ),
        (
            "#Fields:\tdate\ttime\tx-edge-location\tsc-bytes\tc-ip\tcs-method\tcs(Host)\tcs-uri-stem\tsc-status\tcs(Referer)\tcs(User-Agent)\tcs-uri-query\tcs(Cookie)\tx-edge-result-type\tx-edge-request-id\tx-host-header\tcs-protocol\tcs-bytes\ttime-taken\tx-forwarded-for\tssl-protocol\tssl-cipher\tx-edge-response-result-type\tcs-protocol-version\tfle-status\tfle-encrypted-fields\tc-port\ttime-to-first-byte\tx-edge-detailed-result-type\tsc-content-type\tsc-content-len\tsc-range-start\tsc-range-end",
            "-\tMozilla\t-\t-\tError\tid2\tmedia.example.com\thttps\t30\t0.001\t10.0.0.1,\\x2010.0.0.2\t-\t-\tError\tHTTP/2.0\t-\t-\t4711\t0.001\tError\ttext/html\t78\t-\t-",
        ),
    ];
    for (index, (header, rest)) in rows.iter().enumerate() {
        let text = format!(
            "#Version: 1.0\n{header}\n2026-11-20\t20:00:0{index}\tFRA2\t100\t198.18.0.1\tGET\td1.cloudfront.net\t/a%2520b.ts\t200\t{rest}"
        );
        crate::support::write_gzip(&place.path("logs").join(format!("E1.2026-11-20-20.{index}.gz")), &text);
    }
    assert_eq!(place.json(0, &["run", "--output", "json"])["rows"]["read"], 3);
    let read = place.query(
        "SELECT time, host, path, user_agent, accepted, result_type, request_id, country FROM requests ORDER BY time",
    );
    assert_eq!(
        read[0],
        json!({"time": "2026-11-20T20:00:00Z", "host": "d1.cloudfront.net", "path": "/a%20b.ts", "user_agent": "Mozilla", "accepted": true, "country": read[0]["country"]})
    );
    assert_eq!(
        (&read[1]["host"], &read[1]["request_id"], &read[1]["accepted"]),
        (&json!("media.example.com"), &json!("id1"), &json!(true))
    );
    // An error page that is sent with status 200.
    assert_eq!((&read[2]["result_type"], &read[2]["accepted"]), (&json!("Error"), &json!(false)));
}

/// The scenario of the committed fixtures.
fn small() -> model::traffic::Scenario {
    model::traffic::Scenario {
        seed: 21,
        start: "2026-11-20T18:30:00Z".parse().unwrap(),
        duration: chrono::TimeDelta::minutes(135),
        sessions: 100,
        pirates: 8,
        grey: 2,
        visits: 50,
        views: model::views::Views { least: 40_000, most: 240_000 },
        mix: model::kinds::Mix::Evening,
        scheme: model::token::Scheme::SecureMediaDelivery { bound: true },
    }
}

/// Writes a scenario's log objects to `logs` and its labels beside.
fn write_traffic(scenario: &model::traffic::Scenario, place: &Place) {
    model::write(scenario, model::format::Format::Standard, 400, place.path("logs"), &place.path("labels.csv"))
        .unwrap();
}

/// The names of the built-in detectors.
fn detectors() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("queries/detectors");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn the_allow_list_spares_and_restores_and_says_so() {
    let plain = "[detectors.secure_media_score]\nmode = \"off\"\n";
    let place = Place::new(plain);
    let mut lines = shared("SharedSess01", 20, 10, 12);
    lines.extend(shared("SharedSess02", 20, 10, 40));
    lines.extend(shared("SharedSess03", 20, 10, 12).iter().map(|line| line.replace("198.18.0.", "198.18.99.")));
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    let allow = |what: &str, until: &str| format!("[[allow]]\n{what}\nreason = \"our probes\"\nuntil = {until:?}\n");
    let entries = |until: &str| {
        let network = allow("network = \"198.18.0.0/29\"", until);
        format!("{plain}{network}{}", allow("session = \"SharedSess03\"", until))
    };

    // Before anything is blocked; and once the entries are over they spare nobody.
    let early = Place::new(&entries("2026-11-20T22:00:00Z"));
    early.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    let first = early.json(0, &["run", "--output", "json"]);
    assert_eq!((&first["revoked"], &first["observed"]), (&json!(1), &json!(1)), "{first}");
    // Seven networks of two sessions, four requests each.
    assert_eq!(first["spared"], json!({"requests": 56, "sessions": 2}));
    let observed = early.query("SELECT session_id, reason FROM revocations WHERE event = 'observed'");
    assert_eq!(observed[0]["session_id"], "SharedSess03");
    assert!(observed[0]["reason"].as_str().unwrap().contains("allowed: our probes"), "{observed:?}");
    let over = Place::new(&entries("2026-11-20T20:30:00Z"));
    over.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    assert_eq!(over.json(0, &["run", "--output", "json"])["revoked"], 3);

    // What is blocked already: restored, unless enough is left against it.
    assert_eq!(place.json(0, &["run", "--output", "json"])["revoked"], 3);
    place.configure("logs", &entries("2026-11-20T22:00:00Z"));
    let then = place.json(0, &["run", "--now", "2026-11-20T21:05:00Z", "--output", "json"]);
    assert_eq!((&then["restored"], &then["waf"]["sessions"]), (&json!(2), &json!(1)), "{then}");
    assert_eq!(place.query("SELECT session_id FROM active_revocations"), [json!({"session_id": "SharedSess02"})]);
    let again = place.json(0, &["run", "--now", "2026-11-20T21:06:00Z", "--output", "json"]);
    assert_eq!((&again["restored"], &again["revoked"]), (&json!(0), &json!(0)));
}

/// Who merely names a session that others use with its token is somebody else, even if the allow-list takes those others out.
#[test]
fn what_the_allow_list_takes_out_still_tells_whose_session_it_is() {
    let probes = "[guard]\nenforce_unbound = true\n[[allow]]\nnetwork = \"198.18.7.7\"\nreason = \"our probes\"\n";
    let place = Place::new(probes);
    let probe: Vec<String> = (0..6)
        .map(|second| line(&format!("20:10:0{second}"), "198.18.7.7", "SharedSess01", second, 200, "probe"))
        .collect();
    let named = unbound(&shared("SharedSess01", 20, 10, 12));
    place.write_log("E1.2026-11-20-20.aaaa.gz", &[probe, named.clone()].concat());
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&summary["revoked"], &summary["observed"]), (&json!(0), &json!(0)), "{summary}");
    // Without the probe there is nobody else.
    let alone = Place::new(probes);
    alone.write_log("E1.2026-11-20-20.aaaa.gz", &named);
    assert_eq!(alone.json(0, &["run", "--output", "json"])["revoked"], 1);
}

/// A person looks at what is held, adds what is innocent to the allow-list, and lets the rest through.
#[test]
fn what_is_held_is_released_only_if_the_allow_list_leaves_enough() {
    let guard = "[detectors.secure_media_score]\nmode = \"off\"\n[guard]\nmax_new_revocations = 1\nmax_share = 0.0\n";
    let place = Place::new(guard);
    let mut lines = shared("SharedSess01", 20, 10, 12);
    lines.extend(shared("ProbesSess01", 20, 10, 12).iter().map(|line| line.replace("Player/", "Probe/")));
    lines.extend(shared("ProbesSess02", 20, 10, 12).iter().map(|line| line.replace("198.18.0.", "198.18.99.")));
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    assert_eq!(place.json(3, &["run", "--output", "json"])["held"], 3);
    let agents: String =
        (0..12).map(|n| format!("[[allow]]\nuser_agent = \"Probe/{n}\"\nreason = \"our probes\"\n")).collect();
    place.configure(
        "logs",
        &format!("{guard}{agents}[[allow]]\nnetwork = \"198.18.99.0/24\"\nreason = \"our probes\"\n"),
    );
    let released = place.json(0, &["run", "--release-held", "--output", "json"]);
    assert_eq!((&released["revoked"], &released["restored"], &released["alarms"]), (&json!(1), &json!(2), &json!([])));
    assert_eq!(place.query("SELECT session_id FROM active_revocations"), [json!({"session_id": "SharedSess01"})]);
}

/// One request with an allowed agent must not save a pirate while some detector fails; but nobody is blocked by what only the
/// failed one may say.
#[test]
fn a_failing_detector_and_an_allow_list_together_save_nobody_and_block_nobody() {
    let fickle = "-- [detector]\n-- description = \"d\"\n-- family = \"f\"\n-- strength = \"strong\"\n-- window = \"30m\"\n-- every = \"5m\"\n-- ttl = \"1h\"\n\
                  -- scope = \"session\"\n-- false_positives = \"none\"\nSELECT session_id, CASE WHEN session_id = 'FickleSess01' THEN 2.0 \
                  WHEN session_id = 'PirateSess01' THEN 1.0 / (COUNT(*) - COUNT(*)) ELSE 1.5 END AS score FROM activity \
                  WHERE session_id <> 'PirateSess01' OR $broken GROUP BY session_id";
    let place = Place::new("");
    fs::create_dir(place.path("mine")).unwrap();
    let write = |broken: &str| {
        fs::write(place.path("mine/fickle.sql"), fickle.replace("$broken", broken)).unwrap();
    };
    let config = |allow: &str| {
        let off = "[detectors.secure_media_score]\nmode = \"off\"\n[detect]\nqueries = \"mine\"\n[guard]\nmax_new_revocations = 0\nmax_share = 0.0\n";
        place.configure("logs", &format!("{off}{allow}"));
    };
    write("false");
    config("");
    let mut lines = shared("PirateSess01", 20, 10, 12);
    lines.push(line("20:10:30", "198.18.77.1", "PirateSess01", 900, 200, "Probe/1"));
    lines.push(line("20:10:30", "198.18.77.2", "FickleSess01", 901, 200, "Probe/1"));
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    assert_eq!(place.json(3, &["run", "--output", "json"])["held"], 2);
    write("true");
    config("[[allow]]\nuser_agent = \"Probe/1\"\nreason = \"our probes\"\n");
    let released = place.json(3, &["run", "--release-held", "--output", "json"]);
    assert_eq!((&released["revoked"], &released["restored"]), (&json!(1), &json!(0)), "{released}");
    assert_eq!(place.query("SELECT session_id FROM active_revocations"), [json!({"session_id": "PirateSess01"})]);
    let alarms = released["alarms"].to_string();
    assert!(
        alarms.contains("1 sessions are not decided on")
            && alarms.contains("FickleSess01")
            && alarms.contains("fickle.sql"),
        "{alarms}"
    );
    // Once it works again it is seen that nothing is left.
    write("false");
    let mended = place.json(0, &["run", "--release-held", "--output", "json"]);
    assert_eq!((&mended["revoked"], &mended["restored"]), (&json!(0), &json!(1)), "{mended}");
}

/// Beside each detector, small logs that it must catch, that come close, and that it must let pass.
#[test]
fn each_detector_catches_what_it_must_and_nothing_that_comes_close() {
    let place = Place::new("");
    let mut checked = 0;
    for detector in detectors() {
        let others = detectors().into_iter().filter(|other| *other != detector);
        place.configure(
            "logs",
            &others.map(|other| format!("[detectors.{other}]\nmode = \"off\"\n")).collect::<String>(),
        );
        for (what, must_find) in [("catch", true), ("close", false), ("pass", false)] {
            let logs = fixtures().join("detectors").join(&detector).join(what);
            let text: String =
                fs::read_dir(&logs).unwrap().map(|log| fs::read_to_string(log.unwrap().path()).unwrap()).collect();
            let sessions: BTreeSet<&str> = text
                .split_ascii_whitespace()
                .filter_map(|word| word.strip_prefix('/')?.split_once('.').map(|(id, _)| id))
                .collect();
            let replayed = place.json(0, &["replay", "--logs", logs.to_str().unwrap(), "--output", "json"]);
            let found: BTreeSet<&str> = replayed["findings"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|finding| finding["detector"] == detector.as_str())
                .map(|finding| finding["session_id"].as_str().unwrap())
                .collect();
            // Detectors that compare sessions need the company of ordinary ones.
            let sessions: BTreeSet<&str> =
                sessions.into_iter().filter(|session| !session.starts_with("bystander-")).collect();
            let expected = if must_find { sessions.clone() } else { BTreeSet::new() };
            assert_eq!(found, expected, "{detector}, {what}");
            checked += sessions.len();
        }
    }
    assert!(checked >= 20, "{checked}");
}

#[test]
fn the_three_detectors_are_strong_only_far_beyond_their_thresholds() {
    let place = Place::new("");
    for (detector, strong) in [
        ("many_ips", "thirty-homes-of-many-operators"),
        ("many_countries", "seven-countries"),
        ("many_user_agents", "twenty-players-in-twenty-homes"),
    ] {
        let logs = fixtures().join("detectors").join(detector).join("catch");
        let replayed = place.json(0, &["replay", "--logs", logs.to_str().unwrap(), "--output", "json"]);
        for finding in replayed["findings"].as_array().unwrap().iter().filter(|finding| finding["detector"] == detector)
        {
            let expected = match finding["session_id"].as_str().unwrap() {
                session if session == strong => "strong",
                // One viewer behind a pool, for all that is known.
                "thirty-networks-of-unknown-operators"
                | "homes-with-both-protocols"
                | "nine-homes-at-once"
                | "five-players" => "weak",
                _ => "medium",
            };
            assert_eq!(finding["strength"], expected, "{finding}");
        }
    }
}

/// Somebody names a viewer's session while he is away: nobody is blocked for what was found of that, whatever the viewer does before and after.
#[test]
fn nobody_is_blocked_for_requests_that_merely_name_him() {
    let place = Place::new("");
    let home = |hour: u32, from: usize| -> Vec<String> {
        let time = |n: usize| format!("{hour:02}:{:02}:{:02}", 40 + n / 4, n % 4 * 15);
        (0..40).map(|n| line(&time(n), "198.18.0.9", "VictimSess01", from + n, 200, "Player/1")).collect()
    };
    let run = |now: &str| place.json(0, &["run", "--output", "json", "--now", &format!("2026-11-20T{now}:00Z")]);
    place.write_log("E1.2026-11-20-17.aaaa.gz", &home(17, 0));
    run("17:55");
    let mut observed = 0;
    for (number, minute) in (30..90).step_by(10).enumerate() {
        let (hour, minute) = (20 + minute / 60, minute % 60);
        let named = unbound(&shared("VictimSess01", hour, minute, 30));
        place.write_log(&format!("E1.2026-11-20-{hour}.b{number}.gz"), &named);
        observed += run(&format!("{hour}:{:02}", minute + 8))["observed"].as_u64().unwrap();
    }
    assert_eq!(observed, 1, "it is said once");
    place.write_log("E1.2026-11-20-21.cccc.gz", &home(21, 900));
    assert_eq!(run("21:52")["revoked"], 0);
    assert_eq!(place.query("SELECT * FROM active_revocations"), Vec::<Value>::new());
}

/// A detector whose windows of ten minutes have a strong finding for each session that makes `condition` true.
fn strong(condition: &str) -> String {
    format!(
        "-- [detector]\n-- description = \"d\"\n-- family = \"mine\"\n-- strength = \"strong\"\n-- window = \"10m\"\n-- every = \"10m\"\n\
         -- ttl = \"1h\"\n-- scope = \"all\"\n-- false_positives = \"all\"\n-- [params]\n-- most = 3\n\
         SELECT session_id, SUM(requests) * 1.0 AS score FROM activity GROUP BY session_id HAVING {condition}\n"
    )
}

/// What was found by other thresholds, and led to nothing, leads to nothing later.
#[test]
fn a_higher_mode_does_not_act_on_what_was_found_before() {
    let place = Place::new("");
    fs::create_dir(place.path("mine")).unwrap();
    fs::write(place.path("mine/busy.sql"), strong("SUM(requests) > $most")).unwrap();
    let configure = |mode: &str, most: u32| {
        let more = "[detect]\nqueries = \"mine\"";
        place.configure("logs", &format!("{more}\n[guard]\nmode = \"{mode}\"\n[detectors.busy]\nmost = {most}"));
    };
    let run = |now: &str| place.json(0, &["run", "--output", "json", "--now", &format!("2026-11-20T{now}:00Z")]);
    configure("observe", 3);
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("HomeSess0001", 20, 11, 1));
    assert_eq!(run("20:20")["observed"], 1);
    // One more request in the same window, and nothing that suffices: what was found in the ten minutes before stays as it is.
    place.write_log("E1.2026-11-20-20.bbbb.gz", &shared("HomeSess0001", 20, 21, 1));
    assert_eq!(run("20:25")["observed"], 0, "it is observed still");
    configure("enforce", 1_000);
    place.write_log("E1.2026-11-20-20.cccc.gz", &shared("HomeSess0001", 20, 26, 1));
    let then = run("20:30");
    assert_eq!((&then["revoked"], &then["observed"]), (&json!(0), &json!(0)), "{then}");
    // What is found from then on counts.
    configure("enforce", 3);
    place.write_log("E1.2026-11-20-20.dddd.gz", &shared("HomeSess0001", 20, 41, 1));
    assert_eq!(run("20:50")["revoked"], 1);
}

/// Late logs show that a block was wrong: it ends, though another detector fails. So does the wait of one that is held.
#[test]
fn a_block_ends_when_what_it_stands_on_is_not_found_any_more() {
    for guard in ["", "[guard]\nmax_new_revocations = 0\nmax_share = 0.0"] {
        let place = Place::new(&format!("[detect]\nqueries = \"mine\"\n{guard}"));
        fs::create_dir(place.path("mine")).unwrap();
        let alone = strong("SUM(requests) > $most AND (SELECT COUNT(DISTINCT session_id) FROM activity) = 1");
        fs::write(place.path("mine/alone.sql"), alone).unwrap();
        let run = |code| place.json(code, &["run", "--output", "json"]);
        place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("HomeSess0001", 20, 11, 1));
        let blocked = run(if guard.is_empty() { 0 } else { 3 });
        let (revoked, held) = if guard.is_empty() { (1, 0) } else { (0, 1) };
        assert_eq!((&blocked["revoked"], &blocked["held"]), (&json!(revoked), &json!(held)));
        place.write_log("E1.2026-11-20-20.bbbb.gz", &shared("HomeSess0002", 20, 11, 1));
        let fails = strong("1 / (SUM(requests) - SUM(requests)) > $most");
        fs::write(place.path("mine/fails.sql"), fails).unwrap();
        let mended = run(1);
        fs::remove_file(place.path("mine/fails.sql")).unwrap();
        assert_eq!((&mended["restored"], &mended["waf"]["sessions"]), (&json!(1), &json!(0)), "{mended}");
        assert_eq!(run(0)["restored"], 0);
    }
}

/// What went by while a detector was off is not looked at when it is on again.
#[test]
fn a_detector_that_was_off_begins_with_what_is_new() {
    let place = Place::new("");
    fs::create_dir(place.path("mine")).unwrap();
    fs::write(place.path("mine/busy.sql"), strong("SUM(requests) > $most")).unwrap();
    let configure = |mode: &str| {
        place.configure("logs", &format!("[detect]\nqueries = \"mine\"\n[detectors.busy]\nmode = \"{mode}\""));
    };
    let run = || place.json(0, &["run", "--output", "json"])["detectors"]["busy"]["findings"].clone();
    configure("enforce");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("HomeSess0001", 20, 1, 1));
    assert_eq!(run(), 1);
    configure("off");
    place.write_log("E1.2026-11-20-20.bbbb.gz", &shared("HomeSess0002", 20, 21, 1));
    run();
    configure("enforce");
    place.write_log("E1.2026-11-20-20.cccc.gz", &shared("HomeSess0003", 20, 41, 1));
    assert_eq!(run(), 1);
    assert_eq!(
        place.query("SELECT session_id FROM findings WHERE detector = 'busy' ORDER BY session_id"),
        [json!({"session_id": "HomeSess0001"}), json!({"session_id": "HomeSess0003"})]
    );
}

/// One stream over two lines of a viewer is as quick as one, whoever else listens to something slower.
#[test]
fn a_few_slow_listeners_make_nobody_quick() {
    let watch = |session: &str, asset: &str, ips: &[&str], per_minute: usize, minutes: usize| -> Vec<String> {
        let at = |n: usize| format!("20:{:02}:{:02}", n / per_minute, n % per_minute * (60 / per_minute));
        let fetch = |n: usize| line(&at(n), ips[n % ips.len()], session, n, 200, "Player/1");
        (0..minutes * per_minute).map(|n| fetch(n).replace("/live/a/", asset)).collect()
    };
    for (listeners, stations, others) in [(1, 1, 0), (1, 6, 0), (30, 1, 3)] {
        let place = Place::new("");
        let mut lines = watch("ViewerSess01", "/live/film/", &["198.18.0.9", "198.18.32.9"], 4, 20);
        for listener in 0..listeners {
            let ip = format!("198.18.{}.{listener}", listener % 4 + 8);
            for station in 0..stations {
                let asset = format!("/live/radio{station}/");
                lines.extend(watch(&format!("ListenSess{listener:02}"), &asset, &[&ip], 1, 10));
            }
        }
        for other in 0..others {
            let ip = format!("198.18.{}.77", other + 16);
            lines.extend(watch(&format!("OtherSess{other:03}"), "/live/other/", &[&ip], 4, 10));
        }
        place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
        let summary = place.json(0, &["run", "--output", "json", "--now", "2026-11-20T20:21:00Z"]);
        assert_eq!(summary["revoked"], 0, "{listeners} to {stations}: {summary}");
    }
}
