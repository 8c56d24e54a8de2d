//! The daemon: its schedule, its end in each stage of a pass, health and metrics.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::aws::{make_group, s3, waf};
use crate::support::http::{Webhook, get, silent_server};
use crate::support::servers::AwsServer;
use crate::support::{Place, shared};

const HTTP: &str = "[http]\nlisten = \"127.0.0.1:0\"\n";

/// A daemon at work, that writes its logs as JSON.
struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
    /// Reads the log, each line of which must be JSON.
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(place: &Place) -> Daemon {
        Daemon::of(&mut place.command(&["daemon", "--log-format", "json"]))
    }

    fn of(command: &mut Command) -> Daemon {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        let reader = thread::spawn(move || {
            for line in stderr.lines() {
                let line = line.unwrap();
                let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                lines.lock().unwrap().push(line);
            }
        });
        Daemon { child, log, reader: Some(reader) }
    }

    /// The messages of its log.
    fn said(&self) -> Vec<String> {
        let message =
            |line: &Value| line["message"].as_str().unwrap_or_else(|| panic!("no message: {line}")).to_owned();
        self.log.lock().unwrap().iter().map(message).collect()
    }

    /// Waits until something holds; panics with the log if it does not within a minute.
    fn wait(&self, what: &str, holds: impl Fn(&Daemon) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            assert!(Instant::now() < deadline, "{what}: {:#?}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where it answers HTTP.
    fn address(&self) -> String {
        let find = |daemon: &Daemon| {
            daemon.said().iter().find_map(|said| said.strip_prefix("health and metrics at http://").map(str::to_owned))
        };
        self.wait("an address", |daemon| find(daemon).is_some());
        find(self).unwrap()
    }

    fn signal(&self) {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
    }

    /// The exit code, once it has ended and its log was read.
    fn ended(&mut self) -> Option<i32> {
        let code = self.child.wait().unwrap().code();
        self.reader.take().unwrap().join().expect("each line of the log is JSON");
        code
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The metrics by name and labels.
fn metrics(address: &str) -> BTreeMap<String, f64> {
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn metrics_say_what_the_runs_say() {
    let place = Place::with_fixtures(&format!("{HTTP}[schedule]\nevery = \"1s\""));
    let mut daemon = Daemon::start(&place);
    let address = daemon.address();
    assert_eq!(get(&address, "/healthz"), (200, "alive\n".to_owned()));
    assert_eq!(get(&address, "/readyz").0, 503, "no pass has ended yet");
    assert_eq!(get(&address, "/elsewhere").0, 404);
    daemon.wait("two passes", |_| metrics(&address)["streamwarden_passes_total{result=\"done\"}"] >= 2.0);
    assert_eq!(get(&address, "/readyz").0, 200);
    let metrics = metrics(&address);
    daemon.signal();
    assert_eq!(daemon.ended(), Some(0));

    let runs = place.query("SELECT summary FROM runs");
    let runs: Vec<Value> =
        runs.iter().map(|run| serde_json::from_str(run["summary"].as_str().unwrap()).unwrap()).collect();
    let sum = |pointer: &str| runs.iter().map(|run| run.pointer(pointer).unwrap().as_f64().unwrap()).sum::<f64>();
    for (metric, pointer) in [
        ("rows_total{kind=\"read\"}", "/rows/read"),
        ("rows_total{kind=\"accepted\"}", "/rows/accepted"),
        ("rows_total{kind=\"refused\"}", "/rows/refused"),
        ("rows_total{kind=\"without_session\"}", "/rows/without_session"),
        ("objects_total{status=\"ingested\"}", "/objects/ingested"),
        ("events_total{event=\"revoked\"}", "/revoked"),
        ("events_total{event=\"observed\"}", "/observed"),
        ("findings_total{detector=\"many_ips\"}", "/detectors/many_ips/findings"),
        ("active_revocations", "/revoked"),
    ] {
        assert_eq!(metrics[&format!("streamwarden_{metric}")], sum(pointer), "{metric}");
    }
    assert!(sum("/revoked") == 8.0 && sum("/rows/read") > 8_000.0);
    let waf = &runs.iter().find(|run| run["revoked"] == 8).unwrap()["waf"];
    assert_eq!(metrics["streamwarden_waf_wcu{use=\"used\"}"], waf["wcu"].as_f64().unwrap());
    assert_eq!(metrics["streamwarden_waf_wcu{use=\"left\"}"], 5_000.0 - waf["wcu"].as_f64().unwrap());
    assert!(metrics["streamwarden_last_success_age_seconds"] < 60.0);
    assert!(metrics["streamwarden_stage_seconds_count{stage=\"detect\"}"] >= 2.0);
    assert!(metrics["streamwarden_resident_memory_bytes"] > 1e6);
    assert_eq!(metrics["streamwarden_alarms{kind=\"waf_failed\"}"], 0.0, "what has not happened is there too");
}

#[test]
fn every_line_of_a_pass_has_its_run_id() {
    let place = Place::with_fixtures("[http]\nlisten = \"off\"\n[schedule]\nevery = \"1s\"");
    // A broken object makes the pass say more.
    let mut daemon = Daemon::start(&place);
    daemon.wait("a pass", |daemon| daemon.said().iter().any(|said| said.contains("8 revoked")));
    daemon.signal();
    assert_eq!(daemon.ended(), Some(0));
    let log = daemon.log.lock().unwrap().clone();
    let of_daemon = ["a pass every", "ended", "told to end"];
    let of_passes =
        log.iter().filter(|line| !of_daemon.iter().any(|said| line["message"].as_str().unwrap().starts_with(said)));
    let mut ids: Vec<&str> =
        of_passes.map(|line| line["span"]["run_id"].as_str().unwrap_or_else(|| panic!("{line}"))).collect();
    ids.dedup();
    let runs = place.query("SELECT run_id FROM runs ORDER BY started_at");
    assert!(runs.iter().all(|run| ids.contains(&run["run_id"].as_str().unwrap())), "{ids:?} {runs:?}");
}

#[test]
fn a_pass_that_hangs_is_cut_off_and_the_next_one_comes() {
    let server = silent_server();
    let env = vec![
        ("AWS_ENDPOINT_URL", format!("http://{server}")),
        ("AWS_ACCESS_KEY_ID", "test".into()),
        ("AWS_SECRET_ACCESS_KEY", "test".into()),
        ("AWS_REGION", "eu-west-1".into()),
    ];
    let webhook = Webhook::start();
    let notify = format!("[notify]\nwebhook = \"{}\"\n", webhook.url());
    let place = Place::with_logs("s3://logs/", &format!("{notify}{HTTP}[schedule]\nevery = \"1s\"\ntimeout = \"2s\""));
    let place = place.with_env(env);
    let mut daemon = Daemon::start(&place);
    let address = daemon.address();
    let cut_off = "streamwarden_passes_total{result=\"cut_off\"}";
    // While it hangs, all is answered at once.
    daemon.wait("a pass under way", |_| metrics(&address)["streamwarden_pass_running"] == 1.0);
    let asked = Instant::now();
    assert_eq!(get(&address, "/healthz").0, 200);
    assert!(asked.elapsed() < Duration::from_secs(1));
    daemon.wait("two passes that were cut off", |_| metrics(&address)[cut_off] >= 2.0);
    let (status, why) = get(&address, "/readyz");
    assert!(status == 503 && why.contains("cut_off"), "{why}");
    let of_now = metrics(&address);
    assert_eq!(of_now["streamwarden_errors_total{kind=\"run_cut_off\"}"], of_now[cut_off]);
    let told = webhook.taken();
    assert!(told.len() == 1 && told[0]["alarms"][0]["kind"] == "run_cut_off", "{told:?}");
    daemon.signal();
    daemon.signal();
    assert_eq!(daemon.ended(), Some(0), "{:#?}", daemon.said());
}

/// A config whose pass hangs in one stage, and the environment that goes with it.
fn hanging(stage: &str, aws: &AwsServer, group: &str) -> (String, Vec<(&'static str, String)>) {
    let silent = silent_server();
    let endpoint = |name| vec![(name, format!("http://{silent}"))];
    let waf = format!("[waf]\nname = \"guard\"\nid = \"{group}\"\n");
    let (config, mut more) = match stage {
        "read" => ("[[logs]]\nlocation = \"s3://elsewhere/\"\n".to_owned(), vec![]),
        "detect" => ("[detect]\nqueries = \"detectors\"\n".to_owned(), vec![]),
        "take in" => ("[dynamodb]\ntable = \"SessionToRevoke\"\n".to_owned(), endpoint("AWS_ENDPOINT_URL_DYNAMODB")),
        "enforce" => (waf, endpoint("AWS_ENDPOINT_URL_WAFV2")),
        "notify" => (format!("[notify]\nwebhook = \"http://{silent}/\"\n"), vec![]),
        _ => unreachable!(),
    };
    if stage == "read" {
        more = endpoint("AWS_ENDPOINT_URL_S3");
    }
    let mut env = aws.env();
    env.extend(more);
    (config, env)
}

#[test]
fn told_to_end_twice_it_gives_way_in_every_stage_and_the_next_run_takes_up_where_it_was() {
    let aws = AwsServer::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let group = runtime.block_on(make_group(&waf(&aws), 100));
    for stage in ["read", "detect", "take in", "enforce", "notify"] {
        let (config, env) = hanging(stage, &aws, &group);
        let place = Place::new(&format!("{config}{HTTP}[schedule]\nevery = \"1h\"")).with_env(env);
        place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
        // Not to be done in a day.
        let endless = "SELECT a.session_id, SUM(a.requests * b.requests * c.requests * d.requests * e.requests * f.requests) * 1.0 AS score\n\
            FROM activity a CROSS JOIN activity b CROSS JOIN activity c CROSS JOIN activity d CROSS JOIN activity e CROSS JOIN activity f\n\
            GROUP BY a.session_id\n";
        let header = "-- [detector]\n-- description = \"endless\"\n-- family = \"endless\"\n-- strength = \"weak\"\n-- window = \"30m\"\n\
            -- every = \"5m\"\n-- ttl = \"1h\"\n-- scope = \"session\"\n-- false_positives = \"all\"\n";
        fs::create_dir(place.path("detectors")).unwrap();
        fs::write(place.path("detectors/endless.sql"), format!("{header}{endless}")).unwrap();
        let mut daemon = Daemon::start(&place);
        let address = daemon.address();
        let table = match stage {
            "read" => None,
            "detect" => Some("activity"),
            "take in" => Some("findings"),
            "enforce" | "notify" => Some("revocations"),
            _ => unreachable!(),
        };
        daemon.wait(stage, |_| match table {
            Some(table) => place.path("state/tables").join(table).exists(),
            None => metrics(&address)["streamwarden_pass_running"] == 1.0,
        });
        let asked = Instant::now();
        daemon.signal();
        daemon.wait("it heard", |daemon| daemon.said().iter().any(|said| said.starts_with("told to end")));
        daemon.signal();
        assert_eq!(daemon.ended(), Some(0), "{stage}: {:#?}", daemon.said());
        assert!(asked.elapsed() < Duration::from_secs(15), "{stage}: {:?}", asked.elapsed());
        assert!(daemon.said().iter().any(|said| said.contains("is cut off")), "{stage}: {:#?}", daemon.said());

        place.configure("logs", "");
        let run = place.json(0, &["run", "--output", "json"]);
        let active = place.query("SELECT session_id FROM active_revocations");
        assert_eq!(active.len(), 1, "{stage}: {run}");
        let counted = place.query("SELECT SUM(requests) AS requests FROM activity");
        assert_eq!(counted[0]["requests"], 48, "{stage}");
    }
}

#[test]
fn a_pass_that_is_cut_off_gives_the_lease_of_a_state_in_s3_back() {
    let aws = AwsServer::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let group = runtime.block_on(async {
        s3(&aws).create_bucket().bucket("state").send().await.unwrap();
        make_group(&waf(&aws), 100).await
    });
    let (config, env) = hanging("enforce", &aws, &group);
    let in_s3 = |place: &Place| {
        let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
        fs::write(place.path("streamwarden.toml"), config.replace("\"state\"", "\"s3://state/\"")).unwrap();
    };
    for command in ["daemon", "run"] {
        let place = Place::new(&format!("{config}[http]\nlisten = \"off\"\n")).with_env(env.clone());
        in_s3(&place);
        place.write_log(&format!("E1.2026-11-20-20.{command}.gz"), &shared("SharedSess01", 20, 10, 12));
        aws.forget_calls();
        let mut daemon = Daemon::of(&mut place.command(&[command, "--log-format", "json"]));
        let wrote = |table: &str| {
            let table = format!("tables/{table}/");
            aws.calls().iter().any(|call| {
                call.operation == "PutObject" && call.key.as_ref().is_some_and(|key| key.starts_with(&table))
            })
        };
        daemon.wait("the rules are due", |_| wrote("revocations") || command == "run" && wrote("activity"));
        daemon.signal();
        if command == "daemon" {
            daemon.signal();
        }
        let code = if command == "daemon" { 0 } else { 1 };
        assert_eq!(daemon.ended(), Some(code), "{:#?}", daemon.said());
        // Another run need not wait until the lease is over.
        place.configure("logs", "");
        in_s3(&place);
        place.json(0, &["run", "--output", "json"]);
    }
}

#[test]
fn whoever_holds_connections_open_keeps_nobody_from_asking_for_long() {
    let place = Place::new(&format!("{HTTP}[schedule]\nevery = \"1h\""));
    let mut daemon = Daemon::start(&place);
    let address = daemon.address();
    let _held: Vec<_> = (0..150).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    daemon.wait("an answer", |_| {
        std::panic::catch_unwind(|| get(&address, "/healthz").0).is_ok_and(|status| status == 200)
    });
    daemon.signal();
    assert_eq!(daemon.ended(), Some(0));
}

#[test]
fn a_cron_expression_is_kept_to_the_second() {
    let place = Place::new("[http]\nlisten = \"off\"\n[schedule]\ncron = \"*/2 * * * * *\"");
    let mut command = place.command(&["daemon", "--log-format", "json"]);
    command.env_remove("STREAMWARDEN_NOW");
    let mut daemon = Daemon::of(&mut command);
    let passes = |daemon: &Daemon| daemon.said().iter().filter(|said| said.contains("0 objects")).count();
    daemon.wait("three passes", |daemon| passes(daemon) >= 3);
    daemon.signal();
    assert_eq!(daemon.ended(), Some(0));
    let runs = place.query("SELECT date_part('second', started_at) AS second FROM runs");
    assert!(runs.len() >= 3);
    for run in &runs {
        let second = run["second"].as_f64().unwrap();
        assert!(second % 2.0 < 1.0, "{runs:?}");
    }
}

#[test]
fn an_address_that_is_taken_is_refused_if_it_was_asked_for() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let place = Place::new(&format!("[http]\nlisten = \"{address}\""));
    let output = place.run(&["daemon"]);
    assert!(output.code == 1 && output.stderr.contains("[http] listen"), "{output:?}");
    for wrong in [
        "[http]\nlisten = \"localhost\"",
        "[schedule]\ncron = \"* * *\"",
        "[schedule]\nevery = \"1m\"\ncron = \"* * * * *\"",
    ] {
        let output = Place::new(wrong).run(&["daemon"]);
        assert!(output.code == 2, "{wrong}: {output:?}");
    }
}
