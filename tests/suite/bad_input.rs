//! What goes wrong is told clearly, with the right exit code, and loses nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::{Place, line, log_text, shared};

fn fails(place: &Place, arguments: &[&str], code: i32, parts: &[&str]) {
    let output = place.run(arguments);
    assert_eq!(output.code, code, "{arguments:?}: {output:?}");
    for part in parts {
        assert!(output.stderr.contains(part), "{part:?} is not in {output:?}");
    }
    assert_eq!(output.stdout, "", "errors go to stderr");
}

#[test]
fn wrong_usage_and_config() {
    let place = Place::new("");
    fails(&place, &["frobnicate"], 2, &["frobnicate"]);
    fails(&place, &["run", "--now", "yesterday"], 2, &["RFC 3339"]);
    fails(&place, &["run", "--config", "elsewhere.toml"], 2, &["elsewhere.toml", "--config"]);
    fails(&place, &["replay", "--labels", "none.csv"], 2, &["none.csv"]);
    fails(&place, &["waf", "show"], 2, &["names no rule group"]);
    for (more, parts) in [
        ("[guard]\nmax_new_revocation = 3", ["streamwarden.toml:", "did you mean `max_new_revocations`"]),
        ("[detectors.many_ip]\nmax_networks = 3", ["many_ip", "many_ips"]),
        ("[detectors.many_ips]\nmax_network = 3", ["max_network", "max_networks"]),
        ("[detectors.many_ips]\nmax_networks = 0", ["max_networks", "at least 1"]),
        ("[detect]\nqueries = \"nothing\"", ["queries", "nothing"]),
        ("[detectors.many_ips]\nwindow = \"4d\"", ["state.activity_retention", "many_ips"]),
    ] {
        place.configure("logs", more);
        fails(&place, &["run"], 2, &parts);
    }
    assert!(!place.path("state").exists(), "refused before anything is written");
    place.configure("logs", "");
    let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    fs::write(place.path("streamwarden.toml"), config.replace("country.mmdb", "nowhere.mmdb")).unwrap();
    fails(&place, &["run"], 2, &["[geoip] country", "nowhere.mmdb"]);
}

#[test]
fn a_broken_detector_is_refused_at_the_start_with_its_file_and_line() {
    let place = Place::new("[detect]\nqueries = \"mine\"");
    fs::create_dir(place.path("mine")).unwrap();
    let header = "-- [detector]\n-- description = \"d\"\n-- family = \"f\"\n-- strength = \"medium\"\n-- window = \"30m\"\n\
                  -- every = \"5m\"\n-- ttl = \"1h\"\n-- scope = \"session\"\n-- false_positives = \"none\"\n";
    for (sql, place_in_file) in [
        ("SELECT session_id, 1.0 AS score\nFROM activity\nWHERE adress = '1'", "mine.sql:12"),
        ("SELECT session_id, 1.0 AS score\nFROM activity\nWHERE requests > $most", "mine.sql:12"),
        ("SELECT session_id, 1.0 AS score\nFROM activity\nWHERE", "mine.sql:12"),
        ("DROP TABLE activity", "mine.sql:10"),
    ] {
        fs::write(place.path("mine/mine.sql"), format!("{header}{sql}\n")).unwrap();
        fails(&place, &["run"], 2, &[place_in_file]);
    }
    assert!(!place.path("state").exists());
}

#[test]
fn logs_that_are_not_there() {
    let place = Place::with_logs("nowhere", "");
    let output = place.run(&["run"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("cannot list") && output.stderr.contains("nowhere"), "{output:?}");
    // A quiet night is no failure.
    let quiet = Place::new("");
    assert_eq!(quiet.json(0, &["run", "--output", "json"])["objects"]["listed"], 0);
}

#[test]
fn a_broken_object_is_quarantined_with_its_reason_and_does_not_stop_the_rest() {
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.good.gz", &shared("SharedSess01", 20, 10, 12));
    let whole = fs::read(place.path("logs/E1.2026-11-20-20.good.gz")).unwrap();
    for (name, bytes) in [
        ("E1.2026-11-20-20.cut.gz", &whole[..whole.len() / 2]),
        ("E1.2026-11-20-20.text.gz", b"hello\nworld\n".as_slice()),
        ("E1.2026-11-20-20.binary.gz", &[0, 159, 146, 150, 0, 1, 2]),
        ("E1.2026-11-20-20.nofields.gz", b"#Version: 1.0\n#Fields: date time\n1\t2\n"),
        ("E1.2026-11-20-20.badlines.gz", b"#Fields: date time c-ip cs-uri-stem sc-status\nx\ty\tz\t/a\t200\n"),
        ("E1.2026-11-20-20.table.parquet", b"PAR1...."),
    ] {
        fs::write(place.path("logs").join(name), bytes).unwrap();
    }
    let summary = place.json(3, &["run", "--output", "json"]);
    assert_eq!(summary["objects"], json!({"listed": 7, "ingested": 1, "duplicate": 0, "quarantined": 6}));
    assert_eq!(summary["revoked"], 1, "the good one counts");
    let reasons = place.query("SELECT key, reason FROM objects WHERE status = 'quarantined' ORDER BY key");
    let reason = |part: &str| {
        let row = reasons.iter().find(|row| row["key"].as_str().unwrap().contains(part)).unwrap();
        row["reason"].as_str().unwrap().to_owned()
    };
    assert!(reason("cut").contains("broken gzip"), "{reasons:?}");
    assert!(reason("text").contains("no CloudFront log"));
    assert!(reason("binary").contains("not"));
    assert!(reason("nofields").contains("missing: cs-uri-stem, sc-status, c-ip"));
    assert!(reason("badlines").contains("bad date"));
    assert!(reason("table").contains("Parquet"));
    // A query over the log objects does not fail for them.
    assert_eq!(place.query("SELECT COUNT(*) AS n FROM requests"), [json!({"n": 48})]);
    // They are not tried again until somebody says so.
    assert_eq!(place.json(0, &["run", "--output", "json"])["objects"]["quarantined"], 0);
    fs::write(place.path("logs/E1.2026-11-20-20.more.gz"), &whole[..whole.len() / 3]).unwrap();
    assert_eq!(place.json(3, &["run", "--retry-quarantined", "--output", "json"])["objects"]["quarantined"], 7);
    assert_eq!(place.query("SELECT key FROM objects").len(), 8);
}

#[test]
fn a_bad_line_is_counted_and_named() {
    let place = Place::new("");
    let mut lines = shared("SharedSess01", 20, 10, 12);
    lines.insert(3, "2026-11-20\t25:99:99\tgarbage\n".into());
    lines.push("\u{1b}[31m\t\t\n".into());
    place.write_log("E1.2026-11-20-20.good.gz", &lines);
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!(
        (&summary["rows"]["read"], &summary["rows"]["rejected"], &summary["revoked"]),
        (&json!(48), &json!(2), &json!(1))
    );
    let row = &place.query("SELECT rows, rejected_rows, reason FROM objects")[0];
    assert_eq!((&row["rows"], &row["rejected_rows"]), (&json!(48), &json!(2)));
    assert!(row["reason"].as_str().unwrap().contains("line 6: no "), "{row}");
}

#[test]
fn an_object_that_is_still_being_written_is_left_for_the_next_run() {
    let place = Place::new("");
    // Hidden names are how rsync and the like write.
    fs::write(place.path("logs/.E1.2026-11-20-20.part.gz.Xy12"), b"half").unwrap();
    assert_eq!(place.json(0, &["run", "--output", "json"])["objects"]["listed"], 0);
}

#[test]
fn a_folder_or_a_file_without_permission() {
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.good.gz", &shared("SharedSess01", 20, 10, 12));
    place.write_log("E1.2026-11-20-20.secret.gz", &shared("SharedSess02", 20, 10, 12));
    let secret = place.path("logs/E1.2026-11-20-20.secret.gz");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&secret).is_ok() {
        // Root reads everything: run as nobody, who may enter the place and use the state.
        fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o777)).unwrap();
        let as_nobody = |arguments: &[&str]| {
            use std::os::unix::process::CommandExt;
            let mut command = place.command(arguments);
            let output = command.uid(65_534).gid(65_534).output().unwrap();
            (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
        };
        check_permissions(&place, as_nobody);
    } else {
        check_permissions(&place, |arguments| {
            let output = place.run(arguments);
            (output.code, output.stdout + &output.stderr)
        });
    }
}

fn check_permissions(place: &Place, run: impl Fn(&[&str]) -> (i32, String)) {
    let (code, stderr) = run(&["run"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("secret.gz was quarantined: Permission denied"), "{stderr}");
    // The whole folder.
    fs::set_permissions(place.path("logs"), fs::Permissions::from_mode(0o000)).unwrap();
    let (code, stderr) = run(&["run"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("cannot list") && stderr.contains("Permission denied"), "{stderr}");
    fs::set_permissions(place.path("logs"), fs::Permissions::from_mode(0o755)).unwrap();
    // A folder of the state that another user's run has left.
    let left = place.path("state/tables/findings/_delta_log");
    fs::set_permissions(&left, fs::Permissions::from_mode(0o555)).unwrap();
    let (code, said) = run(&["check"]);
    assert!(code == 1 && said.contains("findings/_delta_log: Permission denied"), "{said}");
    fs::set_permissions(&left, fs::Permissions::from_mode(0o755)).unwrap();
    // The state.
    let sealed = place.path("sealed");
    fs::create_dir(&sealed).unwrap();
    fs::set_permissions(&sealed, fs::Permissions::from_mode(0o555)).unwrap();
    let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    fs::write(place.path("streamwarden.toml"), config.replace("\"state\"", "\"sealed/state\"")).unwrap();
    let (code, stderr) = run(&["run"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("sealed/state") && stderr.contains("Permission denied"), "{stderr}");
}

#[test]
fn a_state_of_another_version_or_of_somebody_else() {
    let place = Place::new("");
    fs::create_dir(place.path("state")).unwrap();
    fs::write(place.path("state/state.json"), "{\"version\":99}").unwrap();
    fails(&place, &["run"], 1, &["version 99", "newer streamwarden"]);
    fs::write(place.path("state/state.json"), "{\"version\":0}").unwrap();
    fails(&place, &["run"], 1, &["version 0", "older"]);
    fs::remove_file(place.path("state/state.json")).unwrap();
    fs::write(place.path("state/photos.zip"), "x").unwrap();
    fails(&place, &["run"], 1, &["no streamwarden state"]);
    assert!(!place.path("state/tables").exists());
    fails(&Place::new(""), &["query", "SELECT 1"], 1, &["there is no state", "streamwarden run"]);
}

#[test]
fn a_name_that_is_not_utf8_and_a_folder_below_that_cannot_be_entered_do_not_hide_the_rest() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.good.gz", &shared("SharedSess01", 20, 10, 12));
    fs::write(place.path("logs").join(std::ffi::OsStr::from_bytes(b"E1.2026-11-20-20.\xff.gz")), "x").unwrap();
    let summary = place.json(1, &["run", "--output", "json"]);
    assert_eq!((&summary["objects"]["ingested"], &summary["revoked"]), (&json!(1), &json!(1)));
    assert!(summary["alarms"][0].as_str().unwrap().contains("not UTF-8"), "{summary}");
}

#[test]
fn dates_and_sizes_that_cannot_be_are_bad_lines() {
    let place = Place::new("");
    let good = line("20:10:00", "198.18.0.1", "SharedSess01", 1, 200, "x");
    let mut lines: Vec<String> = ["0001", "1969", "2261", "2300", "9999"]
        .iter()
        .map(|year| good.replace("2026-", &format!("{year}-")))
        .collect();
    lines.push(good.replace("\t50000\t", "\t9223372036854775807\t"));
    lines.push(good);
    place.write_log("E1.2026-11-20-20.odd.gz", &lines);
    let summary = place.json(0, &["run", "--output", "json"]);
    assert_eq!((&summary["rows"]["read"], &summary["rows"]["rejected"]), (&json!(1), &json!(6)));
    assert_eq!(place.query("SELECT SUM(bytes) AS n FROM activity"), [json!({"n": 50000})]);
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let place = Place::new("");
    place.write_log("E1.2026-11-20-20.good.gz", &shared("SharedSess01", 20, 10, 12));
    fs::write(place.path("logs/E1.2026-11-20-20.bad.gz"), "hello\n").unwrap();
    let mut command = place.command(&["run", "--output", "json"]);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(command.stderr(full).output().unwrap().status.code(), Some(3));
    assert_eq!(place.query("SELECT session_id FROM active_revocations").len(), 1);
}

#[test]
fn a_gzip_of_several_members_is_read_whole() {
    let place = Place::new("");
    let lines = shared("SharedSess01", 20, 10, 12);
    let mut file = fs::File::create(place.path("logs/E1.2026-11-20-20.two.gz")).unwrap();
    for text in [log_text(&lines[..20]), lines[20..].concat()] {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        file.write_all(&encoder.finish().unwrap()).unwrap();
    }
    assert_eq!(place.json(0, &["run", "--output", "json"])["rows"]["read"], 48);
}

#[test]
fn what_an_attacker_writes_reaches_no_terminal_and_no_query() {
    let place = Place::new("");
    let mut lines = shared("SharedSess01", 20, 10, 12);
    for agent in
        ["%1B[2J%1B[31mgone", "x%27%3B%20DROP%20TABLE%20activity%3B--", "=cmd%7C%27/C%20calc%27!A0", "%E2%80%AEtxt"]
    {
        for n in 0..3 {
            lines.push(line("20:12:00", "198.18.0.1", "SharedSess01", 900 + n, 200, agent));
        }
    }
    place.write_log("E1.2026-11-20-20.evil.gz", &lines);
    assert_eq!(place.json(0, &["run", "--output", "json"])["rows"]["read"], 60);
    for format in ["table", "csv", "json"] {
        let output = place.run(&["query", "--format", format, "SELECT DISTINCT user_agent FROM activity ORDER BY 1"]);
        assert_eq!(output.code, 0, "{output:?}");
        assert!(!output.stdout.contains(['\u{1b}', '\u{202e}']), "{format}: {output:?}");
        assert!(!output.stdout.lines().any(|line| line.starts_with('=')), "{format}: {output:?}");
        assert!(output.stdout.contains("DROP TABLE"), "kept as what it is: text");
    }
}

/// What should not be there at all: each is set aside with its reason, or its bad lines are counted, in bounded memory.
#[test]
fn hostile_and_foreign_objects_are_set_aside_and_the_rest_is_read() {
    let place = Place::new("");
    let logs = place.path("logs");
    place.write_log("E1.2026-11-20-20.good.gz", &shared("SharedSess01", 20, 10, 12));
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let header = "#Fields: date time c-ip cs-uri-stem sc-status\n";
    let good = "2026-11-20\t20:00:01\t198.18.0.1\t/a\t200\n";
    let long = [header.as_bytes(), good.as_bytes(), &vec![b'x'; 100_000_000], b"\n", good.as_bytes()].concat();
    let bomb = gzip(&vec![b'\n'; 1 << 20]).repeat(600);
    let odd_bytes =
        [header.as_bytes(), good.as_bytes(), b"2026-11-20\t20:00:0\0\t\xff\xfe\t/\xc3\t200\n\0\0\0\n", good.as_bytes()]
            .concat();
    let foreign_json = br#"{"Records":[{"eventVersion":"1.08","eventTime":"2026-11-20T19:00:01Z"}]}"#;
    let access_log =
        b"79a59df900b949e55d96a1e698fbaced bucket [20/Nov/2026:20:00:38 +0000] 192.0.2.3 - REST.GET.OBJECT a.ts\n";
    for (name, bytes) in [
        ("long.gz", gzip(&long)),
        ("bomb.gz", bomb),
        ("odd.log", odd_bytes),
        ("trail.json.gz", gzip(foreign_json)),
        ("server-access.log", access_log.to_vec()),
        ("columns.parquet", foreign_parquet()),
        ("nothing", Vec::new()),
    ] {
        fs::write(logs.join(name), bytes).unwrap();
    }
    let summary = place.json(3, &["run", "--output", "json"]);
    assert_eq!(summary["objects"], json!({"listed": 8, "ingested": 3, "duplicate": 0, "quarantined": 5}), "{summary}");
    assert_eq!((&summary["rows"]["read"], &summary["rows"]["rejected"]), (&json!(48 + 2 + 2), &json!(1 + 2)));
    assert_eq!(summary["revoked"], 1);
    let reasons = place.query("SELECT key, reason FROM objects WHERE status = 'quarantined' OR rejected_rows > 0");
    for (key, part) in [
        ("bomb.gz", "not a log"),
        ("trail.json.gz", "JSON, but not of CloudFront"),
        ("server-access.log", "no CloudFront log"),
        ("columns.parquet", "cs-uri-stem, sc-status, c-ip"),
        ("nothing", "neither a line of field names nor a record"),
        ("long.gz", "line 3: longer than 1 MiB"),
        ("odd.log", "not UTF-8"),
    ] {
        let row = reasons.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("{key}: {reasons:?}"));
        assert!(row["reason"].as_str().unwrap().contains(part), "{row}");
    }
}

#[test]
fn many_bad_lines_spoil_an_object_a_few_do_not_and_a_byte_order_mark_is_no_line() {
    let place = Place::new("");
    let lines = |good: usize, bad: usize| {
        let good = (0..good).map(|n| line("20:00:00", "198.18.0.1", "HomeSess0001", n, 200, "x"));
        good.chain((0..bad).map(|n| format!("bad\t{n}\n"))).collect::<Vec<_>>()
    };
    place.write_log("E1.2026-11-20-20.few.gz", &lines(3, 90));
    place.write_log("E1.2026-11-20-20.many.gz", &lines(40, 101));
    place.write_log("E1.2026-11-20-20.less.gz", &lines(120, 110));
    crate::support::write_gzip(
        &place.path("logs/E1.2026-11-20-20.mark.gz"),
        &format!("\u{feff}{}", log_text(&lines(2, 0))),
    );
    let summary = place.json(3, &["run", "--output", "json"]);
    assert_eq!(summary["objects"], json!({"listed": 4, "ingested": 3, "duplicate": 0, "quarantined": 1}), "{summary}");
    assert_eq!(summary["rows"]["read"], 3 + 120 + 2);
    let reason = place.query("SELECT reason FROM objects WHERE status = 'quarantined'");
    assert!(reason[0]["reason"].as_str().unwrap().contains("101 of 141 lines cannot be read"), "{reason:?}");
}

#[test]
fn of_many_quarantined_objects_some_are_named_and_all_are_counted() {
    let place = Place::new("");
    for number in 0..25 {
        fs::write(place.path(&format!("logs/{number}.log")), format!("hello {number}\n")).unwrap();
    }
    let summary = place.json(3, &["run", "--output", "json"]);
    let alarms = summary["alarms"].as_array().unwrap();
    assert_eq!((alarms.len(), &summary["objects"]["quarantined"]), (11, &json!(25)));
    assert!(alarms[10].as_str().unwrap().contains("25 objects were quarantined"), "{summary}");
}

/// What the log itself says of the viewer's place beats the GeoIP files.
#[test]
fn country_and_operator_of_the_log_beat_the_files() {
    let place = Place::new("");
    let text = "#Fields: date time c-ip cs-uri-stem sc-status c-country asn\n\
                2026-11-20\t20:00:01\t198.18.0.1\t/a\t200\tZZ\t64999\n2026-11-20\t20:00:02\t198.18.0.1\t/a\t200\t-\t-\n";
    fs::write(place.path("logs/E1.2026-11-20-20.a.log"), text).unwrap();
    place.json(0, &["run", "--output", "json"]);
    let rows = place.query("SELECT country, asn FROM requests ORDER BY time");
    assert_eq!(rows[0], json!({"country": "ZZ", "asn": 64999}));
    assert_ne!(rows[1]["country"], "ZZ");
}

/// A table of somebody else's.
fn foreign_parquet() -> Vec<u8> {
    use arrow::array::{ArrayRef, StringArray};
    let dates: ArrayRef = std::sync::Arc::new(StringArray::from(vec!["2026-11-20"]));
    let times: ArrayRef = std::sync::Arc::new(StringArray::from(vec!["20:00:00"]));
    let batch = arrow::record_batch::RecordBatch::try_from_iter([("date", dates), ("time", times)]).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}
