//! `check` says what the logs show and what they lack.

use std::fs;

use serde_json::{Value, json};

use crate::formats::{configure, entry, place, scenario};
use crate::model::format::Format;
use crate::model::token::Scheme;
use crate::support::Place;

fn notices(checked: &Value) -> String {
    let notices = checked["notices"].as_array().unwrap().iter();
    notices.map(|notice| notice["what"].as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn formats_fields_and_shares() {
    let place = Place::with_fixtures("");
    let checked = place.json(0, &["check", "--output", "json"]);
    assert_eq!(checked["logs"][0]["formats"], json!({"standard": 10}));
    assert_eq!(checked["logs"][0]["objects"], 35);
    assert_eq!(checked["logs"][0]["fields"].as_array().unwrap().len(), 33);
    assert_eq!(checked["schemes"].as_array().unwrap().len(), 1);
    let scheme = &checked["schemes"][0];
    assert_eq!((&scheme["scheme"], &scheme["configured"]), (&json!("secure-media-delivery"), &json!(true)));
    assert!(scheme["share"].as_f64().unwrap() > 0.9 && scheme["bound"] == scheme["requests"]);
    assert_eq!(notices(&checked), "");
    assert!(!place.path("state").exists(), "a check writes nothing");
    let text = place.run(&["check"]);
    assert!(text.code == 0 && text.stdout.contains("Nothing is missing"), "{text:?}");
}

#[test]
fn each_lack_is_said_with_its_mend() {
    let at = |scheme: Scheme, format: Format| place(&scenario(scheme), format);
    let said = |place: &Place, code: i32, parts: &[&str]| {
        let checked = place.json(code, &["check", "--output", "json"]);
        for part in parts {
            assert!(notices(&checked).contains(part), "{part:?} is not in {checked}");
        }
    };
    // Cookie logging is off, and what else the logs could give.
    let off = at(Scheme::SignedUrl, Format::Standard);
    configure(&off, entry(Scheme::JwtCookie), "");
    said(&off, 3, &["cookie logging seems to be off", "under the scheme signed-url, which is not in the config"]);
    // The same is said by a run.
    let run = off.run(&["run"]);
    assert!(run.stderr.contains("cookie logging seems to be off"), "{run:?}");
    // Standard logs hold no headers.
    let headers = at(Scheme::SecureMediaDelivery { bound: true }, Format::Json);
    configure(&headers, entry(Scheme::StreamKey), "");
    said(&headers, 3, &["no request shows its headers", "none of"]);
    // Ids that the viewer chooses, signatures that stand in for ids.
    let guard = |place: &Place| {
        let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
        let careful = config.replace("enforce_unbound = true\nenforce_derived = true\n", "");
        fs::write(place.path("streamwarden.toml"), careful).unwrap();
    };
    let unbound = at(Scheme::CmcdQuery, Format::Parquet);
    guard(&unbound);
    said(&unbound, 0, &["session id that the viewer can choose"]);
    let derived = at(Scheme::SignedCookie, Format::Plain);
    guard(&derived);
    said(&derived, 0, &["have no session id", "key of the scheme signed-cookie is used from"]);
    // No country anywhere.
    let nowhere = at(Scheme::SecureMediaDelivery { bound: true }, Format::Standard);
    let config = fs::read_to_string(nowhere.path("streamwarden.toml")).unwrap();
    let config: Vec<&str> = config.lines().filter(|line| !line.contains(".mmdb")).collect();
    fs::write(nowhere.path("streamwarden.toml"), config.join("\n")).unwrap();
    said(&nowhere, 0, &["no request has a country", "no request has an autonomous system"]);
    // The same logs with the column need no GeoIP file.
    let somewhere = at(Scheme::SecureMediaDelivery { bound: true }, Format::W3c);
    fs::write(somewhere.path("streamwarden.toml"), config.join("\n")).unwrap();
    assert_eq!(notices(&somewhere.json(0, &["check", "--output", "json"])), "");
}

#[test]
fn sampled_real_time_logs_and_fields_in_the_wrong_order() {
    let place = place(&scenario(Scheme::SecureMediaDelivery { bound: true }), Format::Realtime);
    assert_eq!(notices(&place.json(0, &["check", "--output", "json"])), "");
    // Every other record, as a sampling rate of 50 would leave them.
    for entry in walk(&place.path("logs")) {
        let packed = fs::read(&entry).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(packed.as_slice()), &mut text).unwrap();
        let kept: Vec<&str> =
            text.lines().enumerate().filter(|(n, _)| (n * 7 + n / 5) % 2 == 0).map(|(_, line)| line).collect();
        crate::support::write_gzip(&entry, &kept.join("\n"));
    }
    let checked = place.json(3, &["check", "--output", "json"]);
    assert!(notices(&checked).contains("% of the segments that viewers watch in a row are logged"), "{checked}");

    let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    let swapped = config.replace("'sc-status', 'sc-bytes'", "'sc-bytes', 'sc-status'");
    assert_ne!(config, swapped);
    fs::write(place.path("streamwarden.toml"), swapped).unwrap();
    let checked = place.json(3, &["check", "--output", "json"]);
    assert!(notices(&checked).contains("not in the order in which CloudFront writes them"), "{checked}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
