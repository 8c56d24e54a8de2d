//! What the tests share: a place of their own, the binary, log objects made by hand.

pub mod browser;
pub mod http;
pub mod servers;
pub mod waf;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tempfile::TempDir;

/// The end of the demo's evening.
pub const NOW: &str = "2026-11-20T21:00:00Z";

/// Waits until something is so; panics if it is not within a minute.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A folder with a config, where the binary is run.
pub struct Place {
    folder: TempDir,
    env: Vec<(&'static str, String)>,
}

/// What a run of the binary gave.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    /// An empty place whose config reads logs from `logs`, keeps its state in `state` and knows the demo's
    /// GeoIP files. `more` is added to the config.
    pub fn new(more: &str) -> Place {
        let place = Place::with_logs("logs", more);
        fs::create_dir(place.path("logs")).unwrap();
        place
    }

    /// The same, over the fixtures of the demo.
    pub fn with_fixtures(more: &str) -> Place {
        Place::with_logs(fixtures().join("standard").to_str().unwrap(), more)
    }

    /// The same, over any location.
    pub fn with_logs(location: &str, more: &str) -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap(), env: Vec::new() };
        place.configure(location, more);
        place
    }

    /// Writes the config anew.
    pub fn configure(&self, location: &str, more: &str) {
        let geoip = fixtures().join("geoip");
        let config = format!(
            "[state]\nlocation = \"state\"\n[[logs]]\nlocation = \"{location}\"\n[[session]]\nscheme = \"secure-media-delivery\"\n\
             [geoip]\ncountry = \"{0}/country.mmdb\"\nasn = \"{0}/asn.mmdb\"\n{more}\n",
            geoip.display()
        );
        fs::write(self.path("streamwarden.toml"), config).unwrap();
    }

    /// The binary runs with these variables too.
    pub fn with_env(mut self, env: Vec<(&'static str, String)>) -> Place {
        self.env = env;
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command, ready to run at the demo's time; `--now` among the arguments beats it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamwarden"));
        command.current_dir(self.folder.path()).args(arguments).env("STREAMWARDEN_NOW", NOW).env_remove("RUST_LOG");
        command.env_remove("STREAMWARDEN_CONFIG").envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command that prints one JSON object and ends with `code`.
    pub fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert_eq!(output.code, code, "{output:?}");
        assert_eq!(output.stdout.trim_end().lines().count(), 1, "one line: {output:?}");
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// The rows of a query.
    pub fn query(&self, sql: &str) -> Vec<Value> {
        let output = self.run(&["query", "--format", "json", sql]);
        assert_eq!(output.code, 0, "{sql}: {output:?}");
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The files of every table's Delta log, to see which tables a run has changed.
    pub fn commits(&self) -> BTreeMap<String, Vec<String>> {
        let mut commits = BTreeMap::new();
        for table in fs::read_dir(self.path("state/tables")).unwrap() {
            let table = table.unwrap();
            let log = fs::read_dir(table.path().join("_delta_log")).unwrap();
            let mut files: Vec<String> = log.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            files.sort();
            commits.insert(table.file_name().into_string().unwrap(), files);
        }
        commits
    }

    /// Writes a log object of `session-one`, a session of the scheme `jwt`, that twelve networks use in one minute after 20:00, with
    /// a token of this signature.
    pub fn write_refreshed(&self, name: &str, minute: u32, signature: char) {
        // {"sid":"session-one"}
        let token = format!("e30.eyJzaWQiOiJzZXNzaW9uLW9uZSJ9.{}", signature.to_string().repeat(43));
        let mut text = "#Fields: date time c-ip cs-uri-stem sc-status cs(User-Agent) cs-uri-query\n".to_owned();
        for network in 0..12 {
            for segment in 0..4 {
                text += &format!(
                    "2026-11-20\t20:{minute:02}:{network:02}\t198.18.0.{network}\t/a/{network}-{segment}.ts\t200\tP{network}\ttoken={token}\n"
                );
            }
        }
        fs::write(self.path("logs").join(name), text).unwrap();
    }

    /// Writes a log object of these lines, gzipped.
    pub fn write_log(&self, name: &str, lines: &[String]) {
        write_gzip(&self.path("logs").join(name), &log_text(lines));
    }
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

pub fn write_gzip(path: &Path, text: &str) {
    let mut encoder = GzEncoder::new(fs::File::create(path).unwrap(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap();
}

/// A legacy log with the columns that [`line`] fills.
pub fn log_text(lines: &[String]) -> String {
    let header = "#Version: 1.0\n#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) \
                  cs(User-Agent) cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id\n";
    header.to_owned() + &lines.concat()
}

/// A request for a segment. `time` is of 2026-11-20, `HH:MM:SS`; `number` makes it a segment of its own.
pub fn line(time: &str, ip: &str, session: &str, number: usize, status: u16, agent: &str) -> String {
    format!(
        "2026-11-20\t{time}\tFRA2\t50000\t{ip}\tGET\td1.cloudfront.net\t/{}/live/a/720p/s{number}.ts\t{status}\t-\t{agent}\t-\t-\tHit\t{time}-{ip}-{number}\n",
        token(session)
    )
}

/// A token that binds its session and expires at midnight.
pub fn token(session: &str) -> String {
    // {"ssn":true,"exp":1795219200}
    format!("{session}.eyJhbGciOiJIUzI1NiJ9.eyJzc24iOnRydWUsImV4cCI6MTc5NTIxOTIwMH0.c2lnbmF0dXJl")
}

/// Lines of one session that `networks` homes use within ten minutes from `hour:minute` on, each with an
/// agent of its own: what many_ips and many_user_agents find.
pub fn shared(session: &str, hour: u32, minute: u32, networks: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for network in 0..networks {
        for segment in 0..4 {
            let time = format!("{hour:02}:{:02}:{:02}", minute + segment as u32, network % 60);
            let ip = format!("198.18.{}.{}", network / 200, network % 200 + 1);
            lines.push(line(&time, &ip, session, network * 10 + segment, 200, &format!("Player/{network}")));
        }
    }
    lines
}

/// The same lines with tokens that do not cover their sessions' ids.
pub fn unbound(lines: &[String]) -> Vec<String> {
    // {"ssn":false,"exp":1795219200}
    let payload = |line: &String| {
        line.replace("eyJzc24iOnRydWUsImV4cCI6MTc5NTIxOTIwMH0", "eyJzc24iOmZhbHNlLCJleHAiOjE3OTUyMTkyMDB9")
    };
    lines.iter().map(payload).collect()
}
