//! Generates labelled CloudFront logs of a streaming service, and the GeoIP files for them.
//!
//! `cargo run --example generate` writes the fixtures of this project anew, byte by byte the
//! same; other flags give other traffic, of any size, or the same in another log format or
//! under another token scheme:
//!
//! ```sh
//! cargo run --release --example generate -- --out /tmp/big --sessions 20000 --pirates 200 \
//!     --duration 6h --views 3m..40m --object-rows 20000
//! cargo run --example generate -- --out /tmp/cookies --format realtime --scheme signed-cookie
//! ```

mod model;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;

use model::addresses::Plan;
use model::format::Format;
use model::kinds::Mix;
use model::mmdb;
use model::objects::is_object;
use model::token::Scheme;
use model::traffic::Scenario;
use model::views::Views;

/// Generates labelled CloudFront logs of a streaming service, and the GeoIP files for them.
#[derive(Debug, Parser)]
struct Options {
    /// Folder for geoip/, labels.csv and a folder of logs, which is named as their format.
    #[arg(long, default_value = "fixtures")]
    out: PathBuf,
    /// Same seed, same bytes.
    #[arg(long, default_value_t = 21)]
    seed: u64,
    /// Labelled sessions, pirates and grey ones included.
    #[arg(long, default_value_t = 100)]
    sessions: usize,
    /// Sessions of pirates.
    #[arg(long, default_value_t = 8)]
    pirates: usize,
    /// Sessions about which one can disagree [default: a quarter of the pirates].
    #[arg(long)]
    grey: Option<usize>,
    /// Visits without a session: pages, crawlers, scanners [default: half as many as sessions].
    #[arg(long)]
    visits: Option<usize>,
    /// When the first session may begin.
    #[arg(long, default_value = "2026-11-20T18:30:00Z")]
    start: DateTime<Utc>,
    /// When the last session has ended: as 2h15m.
    #[arg(long, default_value = "2h15m", value_parser = span)]
    duration: TimeDelta,
    /// Shortest and longest view.
    #[arg(long, default_value = "40s..4m", value_parser = views)]
    views: Views,
    /// Which kinds of sessions there are.
    #[arg(long, value_enum, default_value = "evening")]
    mix: Mix,
    /// How logs are written.
    #[arg(long, value_enum, default_value = "standard")]
    format: Format,
    /// How tokens look.
    #[arg(long, value_enum, default_value = "secure-media-delivery")]
    scheme: Scheme,
    /// About how many rows a log object has.
    #[arg(long, default_value_t = 400)]
    object_rows: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let scenario = scenario(&options)?;
    let logs = options.out.join(options.format.name());
    let geoip = options.out.join("geoip");
    for folder in [&logs, &geoip] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    remove_objects(&logs)?;

    let written = model::write(&scenario, options.format, options.object_rows, logs, &options.out.join("labels.csv"))?;

    let plan = Plan::new();
    let built = scenario.start.timestamp().unsigned_abs();
    fs::write(geoip.join("country.mmdb"), mmdb::country(&plan, built)?)?;
    fs::write(geoip.join("asn.mmdb"), mmdb::asn(&plan, built)?)?;
    eprintln!("{} rows in {} objects of {} bytes", written.rows, written.objects, written.bytes);
    Ok(())
}

fn scenario(options: &Options) -> Result<Scenario> {
    let grey = options.grey.unwrap_or(options.pirates / 4);
    let views = options.views;
    ensure!(options.pirates + grey <= options.sessions, "more pirates and grey sessions than sessions");
    ensure!(
        options.duration >= TimeDelta::milliseconds(views.longest_span(options.mix)) + TimeDelta::minutes(1),
        "the duration is too short for such views"
    );
    Ok(Scenario {
        seed: options.seed,
        start: options.start,
        duration: options.duration,
        sessions: options.sessions,
        pirates: options.pirates,
        grey,
        visits: options.visits.unwrap_or(options.sessions / 2),
        views,
        mix: options.mix,
        scheme: options.scheme,
    })
}

/// Removes the objects of an earlier run, also in the folders below, and nothing else.
fn remove_objects(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_objects(&entry.path())?;
        } else if is_object(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Reads a span such as `90s` or `2h15m`.
fn span(text: &str) -> Result<TimeDelta> {
    let mut seconds = 0;
    let mut digits = String::new();
    for character in text.chars() {
        let unit = match character {
            '0'..='9' => {
                digits.push(character);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            other => bail!("unknown unit {other:?}: s, m, h or d"),
        };
        seconds += digits.parse::<i64>().context("a number before each unit")? * unit;
        digits.clear();
    }
    ensure!(digits.is_empty() && seconds > 0, "a number and a unit, as 2h15m");
    Ok(TimeDelta::seconds(seconds))
}

/// Reads a range of spans such as `40s..4m`.
fn views(text: &str) -> Result<Views> {
    let (least, most) = text.split_once("..").context("two spans, as 40s..4m")?;
    let (least, most) = (span(least)?.num_milliseconds(), span(most)?.num_milliseconds());
    ensure!(least < most, "the shortest view first");
    Ok(Views { least, most })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn options_are_consistent() {
        Options::command().debug_assert();
        scenario(&Options::parse_from(["generate"])).unwrap();
    }

    #[test]
    fn spans() {
        assert_eq!(span("2h15m").unwrap(), TimeDelta::minutes(135));
        assert!(span("15").is_err() && span("h").is_err() && span("3x").is_err());
        assert!(views("4m..40s").is_err());
    }

    #[test]
    fn only_objects_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("year=2026/month=11");
        fs::create_dir_all(&below).unwrap();
        let ours = ["EDFDVBD6EXAMPLE.2026-11-20-18.0e765863.gz", "EDFDVBD6EXAMPLE.2.parquet", "rt-logs-1-2026.gz"];
        let others = ["EDFDVBD6EXAMPLE.txt", "notes.gz", "labels.csv"];
        let files = || {
            [folder.path(), &below].into_iter().flat_map(|folder| {
                ours.into_iter().chain(others).map(move |name| (folder.join(name), others.contains(&name)))
            })
        };
        for (file, _) in files() {
            fs::write(file, "").unwrap();
        }
        remove_objects(folder.path()).unwrap();
        for (file, stays) in files() {
            assert_eq!(file.exists(), stays, "{file:?}");
        }
    }
}
