//! Whom is told what, and how often.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::http::{Webhook, silent_server};
use crate::support::servers::AwsServer;
use crate::support::{Place, shared, until};

fn with_webhook(webhook: &Webhook, more: &str) -> Place {
    Place::new(&format!("[notify]\nwebhook = \"{}\"\n{more}", webhook.url()))
}

/// Kinds of alarms, with what they are about.
fn alarms(message: &Value) -> Vec<(&str, &str)> {
    let alarms = message["alarms"].as_array().unwrap().iter();
    alarms.map(|alarm| (alarm["kind"].as_str().unwrap(), alarm["subject"].as_str().unwrap())).collect()
}

fn sessions(message: &Value) -> Vec<&str> {
    message["sessions"].as_array().unwrap().iter().map(|session| session["session_id"].as_str().unwrap()).collect()
}

/// The one message since it was asked last.
fn only(webhook: &Webhook) -> Value {
    let mut taken = webhook.taken();
    assert_eq!(taken.len(), 1, "{taken:#?}");
    taken.remove(0)
}

#[test]
fn a_pass_tells_its_news_in_one_message_and_once() {
    let webhook = Webhook::start();
    let place = with_webhook(&webhook, "");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    fs::write(place.path("logs/E1.2026-11-20-20.bbbb.gz"), b"\x1f\x8b\x08 no gzip").unwrap();
    assert_eq!(place.run(&["run"]).code, 3);
    let message = only(&webhook);
    assert_eq!(sessions(&message), ["SharedSess01"]);
    assert_eq!((&message["blocked"], &message["held"]), (&json!(1), &json!(0)));
    let broken = place.path("logs/E1.2026-11-20-20.bbbb.gz");
    assert_eq!(
        alarms(&message),
        [("object_quarantined", broken.to_str().unwrap()), ("object_quarantined", "")],
        "the object, and how many there are"
    );
    // No address of a viewer, no evidence.
    assert!(!message.to_string().contains("198.18."), "{message}");
    // Nothing new, and the block ends.
    assert_eq!(place.run(&["run"]).code, 0);
    assert_eq!(place.run(&["run", "--now", "2026-11-20T23:00:00Z"]).code, 0);
    assert_eq!(webhook.taken(), Vec::<Value>::new());
    // What a person does is told by the next run.
    assert_eq!(place.run(&["revoke", "OtherSess01", "--reason", "seen in a forum"]).code, 0);
    assert_eq!(place.run(&["run"]).code, 0);
    let message = only(&webhook);
    assert_eq!(sessions(&message), ["OtherSess01"]);
    assert_eq!(message["sessions"][0]["origin"], "manual");
    // A dry run tells nobody.
    place.write_log("E1.2026-11-20-20.cccc.gz", &shared("SharedSess02", 20, 10, 12));
    assert_eq!(place.run(&["run", "--dry-run"]).code, 0);
    assert_eq!(webhook.taken(), Vec::<Value>::new());
}

#[test]
fn what_lasts_is_muted_told_again_and_told_to_be_over() {
    let webhook = Webhook::start();
    let place = with_webhook(&webhook, "mute = \"30m\"\n[guard]\nmax_new_revocations = 0\nmax_share = 0.0");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    assert_eq!(place.run(&["run"]).code, 3);
    let message = only(&webhook);
    assert_eq!((&message["held"], sessions(&message)), (&json!(1), vec!["SharedSess01"]));
    assert_eq!(alarms(&message), [("sessions_held", "")]);
    assert_eq!(place.run(&["run", "--now", "2026-11-20T21:29:00Z"]).code, 3);
    assert_eq!(webhook.taken(), Vec::<Value>::new(), "it is muted");
    assert_eq!(place.run(&["run", "--now", "2026-11-20T21:30:00Z"]).code, 3);
    let message = only(&webhook);
    assert_eq!((alarms(&message), sessions(&message)), (vec![("sessions_held", "")], vec![]));
    assert_eq!(place.run(&["restore", "SharedSess01"]).code, 0);
    assert_eq!(place.run(&["run", "--now", "2026-11-20T21:31:00Z"]).code, 0);
    let message = only(&webhook);
    assert_eq!(message["over"], json!([{"kind": "sessions_held", "subject": ""}]));
    assert_eq!(place.run(&["run", "--now", "2026-11-20T21:32:00Z"]).code, 0);
    assert_eq!(webhook.taken(), Vec::<Value>::new());
}

#[test]
fn what_nobody_took_is_told_by_the_next_run_and_the_channel_is_not_named_whole() {
    let webhook = Webhook::start();
    let place = with_webhook(&webhook, "");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    webhook.answer(404);
    let output = place.run(&["run", "--output", "json"]);
    assert_eq!(output.code, 3);
    assert!(output.stdout.contains("does not take notifications: it answers 404"), "{output:?}");
    assert!(!output.stdout.contains("secret-path") && !output.stderr.contains("secret-path"), "{output:?}");
    assert_eq!(place.query("SELECT session_id FROM active_revocations").len(), 1, "it blocks all the same");
    webhook.answer(200);
    assert_eq!(place.run(&["run"]).code, 0);
    assert_eq!(sessions(&only(&webhook)), ["SharedSess01"]);
}

#[test]
fn a_run_that_is_killed_before_it_has_told_is_made_up_for() {
    let place = Place::new(&format!("[notify]\nwebhook = \"http://{}/\"", silent_server()));
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    let mut run = place.command(&["run"]).spawn().unwrap();
    until("it is about to tell", || place.path("state/tables/notifications").exists());
    run.kill().unwrap();
    run.wait().unwrap();
    let webhook = Webhook::start();
    place.configure("logs", &format!("[notify]\nwebhook = \"{}\"", webhook.url()));
    assert_eq!(place.run(&["run"]).code, 0);
    assert_eq!(sessions(&only(&webhook)), ["SharedSess01"]);
}

#[test]
fn a_run_that_cannot_use_its_state_tells_that_once() {
    let webhook = Webhook::start();
    let place = with_webhook(&webhook, "");
    assert_eq!(place.run(&["run"]).code, 0);
    let version = fs::read_to_string(place.path("state/state.json")).unwrap();
    fs::write(place.path("state/state.json"), "{\"version\": 99}").unwrap();
    for _ in 0..3 {
        assert_eq!(place.run(&["run"]).code, 1);
    }
    assert_eq!(alarms(&only(&webhook)), [("run_failed", "")]);
    assert_eq!(place.run(&["run", "--now", "2026-11-20T22:00:00Z"]).code, 1);
    assert_eq!(alarms(&only(&webhook)), [("run_failed", "")], "the time of muting is over");
    fs::write(place.path("state/state.json"), version).unwrap();
    assert_eq!(place.run(&["run", "--now", "2026-11-20T22:01:00Z"]).code, 0);
    assert_eq!(only(&webhook)["over"], json!([{"kind": "run_failed", "subject": ""}]));
    assert_eq!(place.run(&["run", "--now", "2026-11-20T22:02:00Z"]).code, 0);
    assert_eq!(webhook.taken(), Vec::<Value>::new());
}

#[test]
fn slack_takes_nothing_of_a_log_for_a_link_or_a_mention() {
    let webhook = Webhook::start();
    let place = with_webhook(&webhook, "webhook_format = \"slack\"");
    fs::write(place.path("logs/<!channel> <http:evil.example|x> *b* E1.2026-11-20-20.a.gz"), b"\x1f\x8b\x08 no gzip")
        .unwrap();
    assert_eq!(place.run(&["run"]).code, 3);
    let message = only(&webhook);
    let text = message["text"].as_str().unwrap();
    assert!(text.contains("&lt;!channel&gt;") && !text.contains(['<', '>']), "{text}");
    assert_eq!(message["mrkdwn"], false);
}

#[test]
fn a_topic_of_sns_gets_it_too_and_what_is_not_allowed_is_said() {
    let aws = AwsServer::start();
    let topic = "arn:aws:sns:eu-central-1:123456789012:streamwarden";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = aws_sdk_sns::Config::builder()
            .behavior_version(aws_sdk_sns::config::BehaviorVersion::latest())
            .endpoint_url(aws.url())
            .region(aws_sdk_sns::config::Region::new("eu-central-1"))
            .credentials_provider(aws_sdk_sns::config::Credentials::new("test", "test", None, None, "tests"))
            .build();
        aws_sdk_sns::Client::from_conf(config).create_topic().name("streamwarden").send().await.unwrap();
    });
    let place = Place::new(&format!("[notify]\nsns = \"{topic}\"")).with_env(aws.env());
    let tested = place.run(&["notify", "test"]);
    assert!(tested.code == 0 && tested.stdout.contains(topic), "{tested:?}");
    place.write_log("E1.2026-11-20-20.aaaa.gz", &shared("SharedSess01", 20, 10, 12));
    assert_eq!(place.run(&["run"]).code, 0);
    let published: Vec<_> = aws.calls().into_iter().filter(|call| call.operation == "Publish").collect();
    assert_eq!(published.len(), 2);
    assert_eq!(published[1].subject.as_deref(), Some("streamwarden: 1 blocked"));
    let message = published[1].message.as_deref().unwrap();
    assert!(message.contains("- SharedSess01 until 2026-11-20T22:00:00Z (mode enforce)"), "{message}");
    aws.fail_next("Publish", 1, "AuthorizationError", 403);
    let tested = place.run(&["notify", "test"]);
    assert!(tested.code == 1 && tested.stdout.contains("grant sns:Publish"), "{tested:?}");
    let nobody = Place::new("").run(&["notify", "test"]);
    assert!(nobody.code == 2 && nobody.stderr.contains("[notify]"), "{nobody:?}");
}

#[test]
fn silence_of_the_logs_is_told_when_it_is_unusual() {
    let webhook = Webhook::start();
    let place = with_webhook(&webhook, "");
    let now = "2026-11-20T21:00:00Z".parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    // An object an hour for two days, but for the nights, and its requests of half an hour before.
    let arrive = |hours_ago: i64| {
        let arrived = now - chrono::TimeDelta::hours(hours_ago);
        let logged = arrived - chrono::TimeDelta::minutes(30);
        let name = format!("E1.{}.{hours_ago:04}.gz", logged.format("%Y-%m-%d-%H"));
        let line =
            crate::support::line(&logged.format("%H:%M:%S").to_string(), "198.18.0.1", "ViewerSess01", 1, 200, "P");
        place.write_log(&name, &[line.replace("2026-11-20\t", &logged.format("%Y-%m-%d\t").to_string())]);
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(arrived.timestamp() as u64);
        File::options().write(true).open(place.path("logs").join(name)).unwrap().set_modified(modified).unwrap();
    };
    // Nights of five hours.
    (0..26).filter(|hours_ago| !(14..19).contains(hours_ago)).for_each(arrive);
    let silent_at = |time: &str| {
        let output = place.run(&["run", "--now", time]);
        (output.code, output.stderr.contains("no new log object"))
    };
    assert_eq!(silent_at("2026-11-20T21:00:00Z"), (0, false));
    assert_eq!(silent_at("2026-11-21T02:00:00Z"), (0, false), "a night is no silence");
    assert_eq!(webhook.taken(), Vec::<Value>::new());
    assert_eq!(silent_at("2026-11-21T09:30:00Z"), (3, true));
    let message = only(&webhook);
    assert_eq!(alarms(&message), [("logs_silent", place.path("logs").to_str().unwrap())]);
    arrive(-13);
    assert_eq!(silent_at("2026-11-21T10:00:00Z"), (0, false));
    assert_eq!(only(&webhook)["over"][0]["kind"], "logs_silent");
}
