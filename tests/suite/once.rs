//! The main job on the fixtures, and that doing it again does nothing.

use std::fs;
use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::support::{Place, fixtures, line, log_text, shared, write_gzip};

fn labelled(label: &str) -> Vec<String> {
    let text = fs::read_to_string(fixtures().join("labels.csv")).unwrap();
    let mut sessions: Vec<String> = text
        .lines()
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|columns| columns[1] == label)
        .map(|columns| columns[0].to_owned())
        .collect();
    sessions.sort();
    sessions
}

fn sessions(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| row["session_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_run_finds_the_pirates_and_a_second_changes_nothing_but_runs() {
    let place = Place::with_fixtures("");
    let first = place.json(0, &["run", "--output", "json"]);
    assert_eq!(first["objects"], json!({"listed": 35, "ingested": 35, "duplicate": 0, "quarantined": 0}));
    assert_eq!(first["rows"]["rejected"], 0);
    assert_eq!(first["revoked"], 8);
    assert_eq!(first["waf"]["sessions"], 8);
    assert_eq!(first["waf"]["changed"], false);
    assert!(first["lag_seconds"]["median"].is_number());
    for key in ["run_id", "detectors", "extended", "expired", "held", "observed", "seconds", "alarms"] {
        assert!(!first[key].is_null(), "{key} is missing");
    }
    let active = place.query("SELECT session_id FROM active_revocations ORDER BY session_id");
    assert_eq!(sessions(&active), labelled("pirate"));

    let before = place.commits();
    let second = place.json(0, &["run", "--output", "json"]);
    assert_eq!(second["objects"]["ingested"], 0);
    assert_eq!((&second["rows"]["read"], &second["revoked"], &second["extended"]), (&json!(0), &json!(0), &json!(0)));
    assert_eq!(second["waf"]["sessions"], 8);
    let mut after = place.commits();
    assert_ne!(before["runs"], after["runs"]);
    after.insert("runs".to_owned(), before["runs"].clone());
    assert_eq!(before, after);
    assert_eq!(place.query("SELECT run_id FROM runs").len(), 2);
}

#[test]
fn a_dry_run_tells_the_same_and_writes_nothing() {
    let place = Place::with_fixtures("");
    let dry = place.json(0, &["run", "--dry-run", "--output", "json"]);
    assert_eq!(dry["revoked"], 8);
    assert!(!place.path("state").exists());
    place.json(0, &["run", "--output", "json"]);
    let before = place.commits();
    assert_eq!(place.json(0, &["run", "--dry-run", "--output", "json"])["revoked"], 0);
    assert_eq!(place.commits(), before);
}

/// The row counts of all data tables, and a digest of activity that does not depend on the order of rows.
pub fn picture(place: &Place) -> Vec<Value> {
    place.query(
        "SELECT (SELECT COUNT(*) FROM activity) AS activity, (SELECT SUM(requests) FROM activity) AS requests, \
         (SELECT SUM(segments) FROM activity) AS segments, (SELECT SUM(bytes) FROM activity) AS bytes, \
         (SELECT COUNT(*) FROM deliveries) AS deliveries, (SELECT SUM(requests) FROM deliveries) AS delivered, \
         (SELECT SUM(requests) FROM refusals) AS refused, (SELECT SUM(networks) FROM refusals) AS networks, \
         (SELECT COUNT(*) FROM credentials) AS credentials, (SELECT COUNT(*) FROM findings) AS findings, \
         (SELECT SUM(score) FROM findings) AS score, (SELECT COUNT(*) FROM active_revocations) AS active",
    )
}

#[test]
fn the_tables_do_not_depend_on_how_the_work_was_cut_up() {
    let whole = Place::with_fixtures("");
    whole.json(0, &["run", "--output", "json"]);

    let piecemeal = Place::new("");
    let mut objects: Vec<_> =
        fs::read_dir(fixtures().join("standard")).unwrap().map(|object| object.unwrap().path()).collect();
    objects.sort();
    // Last first: late objects touch windows that were evaluated before.
    for group in objects.rchunks(9) {
        for object in group {
            fs::copy(object, piecemeal.path("logs").join(object.file_name().unwrap())).unwrap();
        }
        let summary = piecemeal.json(0, &["run", "--output", "json"]);
        assert_eq!(summary["objects"]["ingested"], group.len());
    }
    assert_eq!(picture(&piecemeal), picture(&whole));
}

#[test]
fn a_batch_that_was_cut_off_is_finished_with_what_the_ledger_gives_it() {
    let place = Place::with_fixtures("");
    place.json(0, &["run", "--output", "json"]);
    let expected = picture(&place);
    // As if the run had been killed after the ledger and `refusals` were written.
    for table in ["activity", "credentials", "findings", "revocations", "runs"] {
        fs::remove_dir_all(place.path("state/tables").join(table)).unwrap();
    }
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!(summary["objects"]["ingested"], 0, "the ledger knows them");
    assert_eq!(summary["revoked"], 8);
    assert_eq!(picture(&place), expected);
}

#[test]
fn a_batch_whose_object_changed_meanwhile_is_finished_without_it_and_says_so() {
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    place.write_log("E1.2026-11-20-20.bbbb.gz", &shared("SharedSess02", 20, 10, 12));
    place.json(0, &["run", "--output", "json"]);
    for table in ["activity", "credentials", "refusals", "findings", "revocations"] {
        fs::remove_dir_all(place.path("state/tables").join(table)).unwrap();
    }
    place.write_log("E1.2026-11-20-20.bbbb.gz", &shared("SharedSess03", 20, 10, 12));
    let summary = place.json(3, &["run", "--output", "json"]);
    assert!(summary["alarms"][0].as_str().unwrap().contains("its rows are lost"), "{summary}");
    // What stands under the name now was never counted, so it is.
    let counted = place.query("SELECT DISTINCT session_id FROM activity ORDER BY session_id");
    assert_eq!(sessions(&counted), ["SharedSess01", "SharedSess03"]);
    place.json(0, &["run", "--output", "json"]);
}

/// What the ledger has forgotten is not counted again.
#[test]
fn a_ledger_that_lost_batches_is_refused() {
    let place = Place::with_fixtures("");
    place.json(0, &["run", "--output", "json"]);
    let counted = || place.query("SELECT CAST(SUM(requests) AS BIGINT) AS n FROM activity");
    let before = counted();
    fs::remove_dir_all(place.path("state/tables/objects")).unwrap();
    let summary = place.json(1, &["run", "--output", "json"]);
    assert!(summary["alarms"][0].as_str().unwrap().contains("the ledger ends at batch 0"), "{summary}");
    assert_eq!((counted(), &summary["objects"]["ingested"]), (before, &json!(0)));
}

/// While a folder is not mounted nothing in it is lost; and what is lost for good can be read if it comes back.
#[test]
fn what_a_cut_off_batch_lacks_is_not_lost_while_its_place_is_away_and_can_come_back() {
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    place.write_log("E1.2026-11-20-20.bbbb.gz", &shared("SharedSess02", 20, 10, 12));
    place.json(0, &["run", "--output", "json"]);
    let expected = picture(&place);
    let forget = || {
        for table in ["activity", "credentials", "refusals", "deliveries", "findings", "revocations"] {
            fs::remove_dir_all(place.path("state/tables").join(table)).unwrap();
        }
    };
    forget();
    fs::rename(place.path("logs"), place.path("away")).unwrap();
    let waiting = place.json(1, &["run", "--output", "json"]);
    assert!(waiting["alarms"].to_string().contains("cannot be finished now"), "{waiting}");
    fs::rename(place.path("away"), place.path("logs")).unwrap();
    place.json(0, &["run", "--output", "json"]);
    assert_eq!(picture(&place), expected);

    forget();
    let (here, away) = (place.path("logs/E1.2026-11-20-20.bbbb.gz"), place.path("bbbb.gz"));
    fs::rename(&here, &away).unwrap();
    let lost = place.json(3, &["run", "--output", "json"]);
    assert!(lost["alarms"].to_string().contains("its rows are lost"), "{lost}");
    fs::rename(&away, &here).unwrap();
    let found = place.json(0, &["run", "--retry-quarantined", "--output", "json"]);
    assert_eq!(found["objects"]["ingested"], 1, "{found}");
    assert_eq!(picture(&place)[0]["requests"], expected[0]["requests"]);

    // Where some tables have its rows already they are not written twice.
    fs::remove_dir_all(place.path("state/tables/activity")).unwrap();
    fs::rename(&here, &away).unwrap();
    place.json(3, &["run", "--output", "json"]);
    fs::rename(&away, &here).unwrap();
    place.run(&["run", "--retry-quarantined", "--output", "json"]);
    assert_eq!(picture(&place)[0]["delivered"], expected[0]["delivered"]);

    // A place that has left the config keeps nobody waiting.
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    place.json(0, &["run", "--output", "json"]);
    fs::remove_dir_all(place.path("state/tables/activity")).unwrap();
    fs::rename(place.path("logs"), place.path("moved")).unwrap();
    place.configure("moved", "");
    let moved = place.json(3, &["run", "--output", "json"]);
    assert!(moved["alarms"].to_string().contains("its rows are lost"), "{moved}");
}

/// A name keeps its first bytes, however long ago they came.
#[test]
fn what_grows_under_a_name_is_not_counted_again_days_later() {
    let place = Place::new("");
    let configure = || {
        let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
        fs::write(
            place.path("streamwarden.toml"),
            config.replace("[[logs]]", "activity_retention = \"30d\"\n[[logs]]"),
        )
        .unwrap();
    };
    configure();
    let arrived = |time: &str| {
        let time: std::time::SystemTime = time.parse::<chrono::DateTime<chrono::Utc>>().unwrap().into();
        fs::File::open(place.path("logs/access.log")).unwrap().set_modified(time).unwrap();
    };
    let mut lines = shared("HomeSess0001", 20, 10, 5);
    fs::write(place.path("logs/access.log"), log_text(&lines)).unwrap();
    arrived("2026-11-20T20:30:00Z");
    assert_eq!(place.json(0, &["run", "--output", "json"])["objects"]["ingested"], 1);
    for day in 21..25 {
        place.json(0, &["run", "--output", "json", "--now", &format!("2026-11-{day}T21:00:00Z")]);
    }
    lines.extend(shared("HomeSess0002", 20, 10, 1));
    fs::write(place.path("logs/access.log"), log_text(&lines)).unwrap();
    arrived("2026-11-25T20:30:00Z");
    let grown = place.json(3, &["run", "--output", "json", "--now", "2026-11-25T21:00:00Z"]);
    assert_eq!(grown["objects"]["quarantined"], 1, "{grown}");
    assert_eq!(place.query("SELECT SUM(requests) AS n FROM activity"), [json!({"n": 20})]);
}

/// A random number generator whose seed is printed and can be given.
pub fn seeded(name: &str) -> ChaCha8Rng {
    let seed = std::env::var(name).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("{name}={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

/// The fixtures, some of them twice under other names, and broken ones: name and bytes.
pub fn many_objects() -> Vec<(String, Vec<u8>)> {
    let mut objects = Vec::new();
    for (number, object) in fs::read_dir(fixtures().join("standard")).unwrap().enumerate() {
        let path = object.unwrap().path();
        let (name, bytes) = (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap());
        if number % 5 == 0 {
            objects.push((format!("{}.again.gz", name.trim_end_matches(".gz")), bytes.clone()));
            objects.push((format!("{}.cut.gz", name.trim_end_matches(".gz")), bytes[..bytes.len() / 2].to_vec()));
        }
        objects.push((name, bytes));
    }
    objects.sort();
    objects
}

/// Runs that are killed at random instants while objects arrive in any order, and one at the end that is not.
/// `KILL_ROUNDS` makes it more than a few.
pub async fn kill_runs(
    place: &Place,
    random: &mut ChaCha8Rng,
    longest_ms: u64,
    mut arrives: impl AsyncFnMut(&str, &[u8]),
) {
    let rounds = std::env::var("KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(6);
    let mut waiting = many_objects();
    waiting.shuffle(random);
    for round in 0..rounds {
        for (name, bytes) in waiting.split_off(waiting.len() * (rounds - 1 - round) / rounds) {
            arrives(&name, &bytes).await;
        }
        let mut run = place.command(&["run", "--wait"]).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(random.random_range(50..longest_ms))).await;
        let _ = run.kill();
        run.wait().unwrap();
    }
    let code = place.run(&["run", "--wait"]).code;
    assert!(matches!(code, 0 | 3), "{code}");
}

/// What a run over all of it at once, undisturbed, comes to.
pub fn undisturbed() -> Vec<Value> {
    let place = Place::new("");
    for (name, bytes) in many_objects() {
        fs::write(place.path("logs").join(name), bytes).unwrap();
    }
    place.json(3, &["run", "--output", "json"]);
    picture(&place)
}

#[tokio::test]
async fn killed_at_any_instant_and_run_again_the_tables_are_as_if_it_had_not_been() {
    let place = Place::new("");
    let logs = place.path("logs");
    kill_runs(&place, &mut seeded("KILL_SEED"), 4_000, async |name, bytes| fs::write(logs.join(name), bytes).unwrap())
        .await;
    assert_eq!(picture(&place), undisturbed());
    assert_eq!(place.query("SELECT COUNT(*) AS n FROM revocations WHERE event = 'revoked'"), [json!({"n": 8})]);
    let ingested = place.query("SELECT COUNT(*) AS n FROM objects WHERE status = 'ingested'");
    assert_eq!(ingested, [json!({"n": 35})]);
}

#[test]
fn a_reader_changes_nothing() {
    let place = Place::new("");
    place.json(0, &["run", "--output", "json"]);
    fs::remove_dir_all(place.path("state/tables/findings")).unwrap();
    let before = place.commits();
    assert_eq!(place.query("SELECT * FROM findings"), Vec::<Value>::new());
    assert_eq!(place.commits(), before);
}

#[test]
fn detection_and_decisions_that_were_cut_off_are_made_up_for() {
    let place = Place::with_fixtures("");
    place.json(0, &["run", "--output", "json"]);
    let expected = picture(&place);
    for lost in [["revocations"].as_slice(), &["findings", "revocations"]] {
        for table in lost {
            fs::remove_dir_all(place.path("state/tables").join(table)).unwrap();
        }
        assert_eq!(place.json(0, &["run", "--output", "json"])["revoked"], 8);
        assert_eq!(picture(&place), expected);
    }
}

#[test]
fn the_same_bytes_count_once_and_other_bytes_under_a_known_name_are_an_alarm() {
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    assert_eq!(place.json(0, &["run", "--output", "json"])["objects"]["ingested"], 1);
    let expected = picture(&place);

    let first = place.path("logs/E1.2026-11-20-20.aaaa.gz");
    fs::copy(&first, place.path("logs/E1.2026-11-20-20.bbbb.gz")).unwrap();
    let again = place.json(0, &["run", "--output", "json"]);
    assert_eq!(again["objects"], json!({"listed": 2, "ingested": 0, "duplicate": 1, "quarantined": 0}));

    write_gzip(&first, &log_text(&[line("20:30:00", "198.18.9.9", "OtherSess001", 1, 200, "x")]));
    let changed = place.json(3, &["run", "--output", "json"]);
    assert_eq!(changed["objects"]["quarantined"], 1);
    assert!(changed["alarms"][0].as_str().unwrap().contains("other bytes under a name"), "{changed}");
    assert_eq!(picture(&place), expected);
    assert_eq!(place.json(0, &["run", "--output", "json"])["objects"]["quarantined"], 0, "told once");
}

#[test]
fn a_clock_that_goes_backwards_doubles_no_row() {
    let place = Place::new("");
    let path = place.path("logs/E1.2026-11-20-20.aaaa.gz");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    // Broken first, then mended in place: the same size and time, so the same version to the folder.
    let good = fs::read(&path).unwrap();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let write = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    };
    let mut broken = good.clone();
    let end = broken.len();
    broken[end - 8..].fill(0);
    write(&broken);
    let first = place.json(3, &["run", "--output", "json", "--now", "2026-11-20T21:30:00Z"]);
    assert_eq!(first["objects"]["quarantined"], 1);
    write(&good);
    for (now, ingested) in [("2026-11-20T21:00:00Z", 1), ("2026-11-20T21:05:00Z", 0), ("2026-11-20T21:40:00Z", 0)] {
        let again = place.json(0, &["run", "--retry-quarantined", "--output", "json", "--now", now]);
        assert_eq!(again["objects"]["ingested"], ingested, "{now}");
    }
    assert_eq!(place.query("SELECT SUM(requests) AS n FROM activity"), [json!({"n": 48})]);
}

#[test]
fn objects_of_the_same_name_in_two_places_are_two_objects_and_overlapping_places_one() {
    let place = Place::new("[[logs]]\nlocation = \"more\"\n[[logs]]\nlocation = \"./more\"");
    let lines = shared("SharedSess01", 20, 10, 1);
    place.write_log("x.gz", &lines[..2]);
    fs::create_dir(place.path("more")).unwrap();
    write_gzip(&place.path("more/x.gz"), &log_text(&lines[1..3]));
    let summary = place.json(0, &["run", "--output", "json", "--now", "2026-11-20T20:30:00Z"]);
    assert_eq!(summary["objects"]["listed"], 2);
    // The segment that both hold counts once for each.
    assert_eq!(place.query("SELECT SUM(segments) AS n FROM activity"), [json!({"n": 4})]);
    assert_eq!(
        place.query("SELECT COUNT(*) AS n, COUNT(DISTINCT object) AS o FROM requests"),
        [json!({"n": 4, "o": 2})]
    );
}

#[test]
fn late_rows_count_in_their_minute_and_reopen_just_their_windows() {
    let place = Place::new("");
    let mut lines = shared("SharedSess01", 20, 10, 12);
    let late = lines.split_off(lines.len() / 2);
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    assert_eq!(place.json(0, &["run", "--output", "json"])["revoked"], 0);
    // Another session, an hour earlier: not touched by what comes late.
    place.write_log("E1.2026-11-20-20.bbbb.gz", &late);
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!(summary["revoked"], 1);
    let windows = place.query("SELECT DISTINCT window_end FROM findings ORDER BY window_end");
    assert_eq!(windows.first().unwrap()["window_end"], "2026-11-20T20:15:00Z");
    assert_eq!(windows.last().unwrap()["window_end"], "2026-11-20T20:40:00Z");
}

#[test]
fn only_accepted_requests_incriminate() {
    let place = Place::new("");
    let forged =
        shared("VictimSess01", 20, 10, 60).iter().map(|line| line.replace("\t200\t", "\t403\t")).collect::<Vec<_>>();
    place.write_log("E1.2026-11-20-20.aaaa.gz", &forged);
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&summary["rows"]["refused"], &summary["revoked"]), (&json!(240), &json!(0)));
    // That somebody tries the id is told, and is no evidence against it.
    assert_eq!(
        place.query("SELECT DISTINCT detector, strength FROM findings"),
        [json!({"detector": "leaked_token", "strength": "weak"})]
    );
    assert_eq!(place.query("SELECT COUNT(*) AS n FROM credentials")[0]["n"], 0);
    assert_eq!(place.query("SELECT SUM(requests) AS n FROM refusals WHERE session_id = 'VictimSess01'")[0]["n"], 240);
}

#[test]
fn of_the_refused_only_the_hundred_most_refused_ids_have_rows_of_their_own() {
    let place = Place::new("");
    let mut lines = Vec::new();
    for session in 0..150 {
        for n in 0..(if session < 100 { 2 } else { 1 }) {
            lines.push(line("20:10:00", &format!("198.18.0.{session}"), &format!("Session{session:05}"), n, 403, "x"));
        }
    }
    place.write_log("E1.2026-11-20-20.aaaa.gz", &lines);
    place.json(0, &["run", "--output", "json"]);
    let rest = place.query("SELECT requests, networks FROM refusals WHERE session_id IS NULL");
    assert_eq!(rest, [json!({"requests": 50, "networks": 50})]);
    let named = place.query(
        "SELECT COUNT(*) AS n, SUM(requests) AS r, MAX(session_id) AS last FROM refusals WHERE session_id IS NOT NULL",
    );
    assert_eq!(named, [json!({"n": 100, "r": 200, "last": "Session00099"})]);
}
