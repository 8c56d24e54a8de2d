//! Another engine on the same tables: DuckDB runs the detectors' SQL and finds the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use streamwarden::time::Span;

use crate::support::Place;
use crate::support::servers::duckdb;

fn queries() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("queries")
}

/// The detector's header.
fn header(sql: &str) -> toml::Table {
    let header: Vec<&str> = sql
        .lines()
        .map_while(|line| line.strip_prefix("--").map(|rest| rest.strip_prefix(' ').unwrap_or(rest)))
        .collect();
    toml::from_str(&header.join("\n")).unwrap()
}

#[test]
fn duckdb_finds_the_same_sessions_with_the_same_scores() {
    let place = Place::with_fixtures("");
    place.json(0, &["run", "--output", "json"]);
    let windows = place.query("SELECT DISTINCT window_start, window_end FROM findings ORDER BY window_end");
    assert!(windows.len() > 20, "{}", windows.len());
    let view = |name: &str| fs::read_to_string(queries().join(format!("views/{name}.sql"))).unwrap();
    let mut compared = 0;
    for entry in fs::read_dir(queries().join("detectors")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let detector = fs::read_to_string(&path).unwrap();
        let header = header(&detector);
        let length: Span = header["detector"]["window"].as_str().unwrap().parse().unwrap();
        let of_its_length = windows.iter().filter(|window| {
            let at = |key: &str| window[key].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
            at("window_end") - at("window_start") == length.delta()
        });
        // Every fourth window will do: each is a process of its own.
        for window in of_its_length.step_by(4) {
            let mut values = json!({"start": window["window_start"], "end": window["window_end"]});
            for (parameter, value) in header["params"].as_table().unwrap() {
                values[parameter.as_str()] = serde_json::to_value(value).unwrap();
            }
            let engine = |name: &str| fs::read_to_string(queries().join(format!("engine/{name}.sql"))).unwrap();
            let sql = format!(
                "CREATE TEMP TABLE stored_activity AS SELECT * FROM activity WHERE minute >= $start AND minute < $end;\n\
                 CREATE TEMP TABLE stored_refusals AS SELECT * FROM refusals WHERE minute >= $start AND minute < $end;\n\
                 CREATE TEMP TABLE stored_deliveries AS SELECT * FROM deliveries WHERE minute >= $start AND minute < $end;\n\
                 CREATE TEMP TABLE folded AS {};\n\
                 CREATE TEMP TABLE folded_refusals AS {};\n\
                 CREATE TEMP TABLE folded_deliveries AS {};\n\
                 CREATE OR REPLACE TEMP VIEW activity AS SELECT * FROM folded;\n\
                 CREATE OR REPLACE TEMP VIEW refusals AS SELECT * FROM folded_refusals;\n\
                 CREATE OR REPLACE TEMP VIEW deliveries AS SELECT * FROM folded_deliveries;\n\
                 CREATE TEMP TABLE own_referers (value VARCHAR);\n\
                 CREATE TEMP TABLE content_pace AS {};\n\
                 CREATE TEMP TABLE referer_hosts AS {};\n\
                 CREATE TEMP TABLE pace AS {};\n\
                 {detector}",
                view("activity"),
                view("refusals"),
                view("deliveries"),
                engine("content_pace"),
                engine("referer_hosts"),
                engine("pace"),
            );
            let rows = duckdb(&sql, &place.path("state/tables"), &values);
            let theirs: BTreeMap<String, (String, String)> = rows
                .iter()
                .map(|row| {
                    (
                        row["session_id"].as_str().unwrap().to_owned(),
                        (
                            number(&row["score"]),
                            row.get("strength").map_or(header_strength(&detector), Value::to_string),
                        ),
                    )
                })
                .collect();
            let sql = format!(
                "SELECT session_id, score, strength FROM findings WHERE detector = '{name}' AND window_end = TIMESTAMP '{}'",
                window["window_end"].as_str().unwrap().trim_end_matches('Z')
            );
            let ours: BTreeMap<String, (String, String)> = place
                .query(&sql)
                .iter()
                .map(|row| {
                    (
                        row["session_id"].as_str().unwrap().to_owned(),
                        (number(&row["score"]), row["strength"].to_string()),
                    )
                })
                .collect();
            compared += ours.len();
            assert_eq!(theirs, ours, "{name}, window to {}", window["window_end"]);
        }
    }
    assert!(compared > 20, "only {compared} findings were compared");
}

/// What a detector without a column `strength` says of all its rows.
fn header_strength(detector: &str) -> String {
    let line = detector.lines().find_map(|line| line.strip_prefix("-- strength = ")).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

/// A score to nine digits: the engines may add in different order.
fn number(value: &Value) -> String {
    format!("{:.9}", value.as_f64().unwrap())
}

#[test]
fn duckdb_reads_the_log_objects_and_counts_the_same() {
    let place = Place::with_fixtures("");
    place.json(0, &["run", "--output", "json"]);
    let logs = crate::support::fixtures().join("standard/*.gz");
    // The session and the addresses taken from the raw lines, in DuckDB's own words.
    let sql = format!(
        "SELECT COUNT(*) AS requests, COUNT(DISTINCT split_part(stem, '.', 1)) AS sessions, COUNT(DISTINCT ip) AS addresses, \
         SUM(bytes) AS bytes \
         FROM (SELECT column07 AS stem, column04 AS ip, CAST(column03 AS BIGINT) AS bytes, column08 AS status, column22 AS response \
               FROM read_csv('{}', delim = '\\t', header = false, quote = '', escape = '', comment = '#', all_varchar = true, \
                             null_padding = true, ignore_errors = false)) \
         WHERE status IN ('200', '206') AND response <> 'Error' AND regexp_matches(stem, '^/[A-Za-z0-9_-]{{6,200}}\\.[^/.]+\\.[^/.]+\\.[^/.]+/')",
        logs.display()
    );
    let theirs = duckdb(&sql, &place.path("state/tables"), &json!({}));
    let ours = place.query(
        "SELECT SUM(requests) AS requests, COUNT(DISTINCT session_id) AS sessions, SUM(bytes) AS bytes FROM activity",
    );
    for key in ["requests", "sessions", "bytes"] {
        assert_eq!(theirs[0][key].as_f64(), ours[0][key].as_f64(), "{key}");
    }
}
