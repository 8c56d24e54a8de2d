//! What a run needs, tried one by one. Nothing is changed: where only a write can tell, one is sent that is refused for another
//! reason.

use std::collections::BTreeMap;

use aws_sdk_wafv2::types::Rule;
use chrono::TimeDelta;
use serde::Serialize;

use super::CheckedLogs;
use crate::alarm::AlarmKind;
use crate::config::Mode;
use crate::detect::file::Detector;
use crate::detect::{Inspection, Purpose};
use crate::notify::Notifier;
use crate::pass::Warden;
use crate::session::component::{Component, Credential};
use crate::smd_table;
use crate::store::{DeltaStore, MemoryStore, Root, StoreError};
use crate::time::{Clock, Span, rfc3339};
use crate::waf::pack::{Target, is_ours, pack};
use crate::waf::{RuleGroup, Snapshot, WafError};

/// A folder with less room is soon full.
const LEAST_FREE_BYTES: u64 = 1_000_000_000;

/// A clock that is so far off makes logs look late and blocks end at the wrong time; AWS refuses signatures after 5 minutes.
const MOST_OFFSET: TimeDelta = TimeDelta::seconds(30);

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    pub what: String,
    pub outcome: Outcome,
    pub detail: String,
    /// What to do, where it did not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Good,
    /// A person should look.
    Problem,
    /// A run would fail.
    Failed,
    /// There is nothing to try, or no way to.
    Skipped,
}

impl Trial {
    fn good(what: impl Into<String>, detail: impl Into<String>) -> Trial {
        Trial { what: what.into(), outcome: Outcome::Good, detail: detail.into(), mend: None }
    }

    fn skipped(what: impl Into<String>, detail: impl Into<String>) -> Trial {
        Trial { outcome: Outcome::Skipped, ..Trial::good(what, detail) }
    }

    fn problem(what: impl Into<String>, detail: impl Into<String>, mend: impl Into<String>) -> Trial {
        Trial { outcome: Outcome::Problem, mend: Some(mend.into()), ..Trial::good(what, detail) }
    }

    fn failed(what: impl Into<String>, detail: impl Into<String>, mend: impl Into<String>) -> Trial {
        Trial { outcome: Outcome::Failed, ..Trial::problem(what, detail, mend) }
    }
}

/// State, rule group, DynamoDB table, channels, clock and detectors.
pub async fn of_what_is_needed(warden: &Warden, clock: Clock) -> Vec<Trial> {
    let mut tried = vec![of_state(warden).await];
    tried.extend(of_waf(warden).await);
    tried.push(of_dynamodb(warden).await);
    tried.push(match Notifier::connect(&warden.config).await {
        Some(notifier) => {
            Trial::good("notify", format!("{}; `notify test` sends a message", notifier.names().join(", ")))
        }
        None => {
            Trial::skipped("notify", "nobody is told of anything: the config has no sns and no webhook in [notify]")
        }
    });
    tried.push(of_clock(warden, clock).await);
    tried.push(of_detectors(warden, clock).await);
    tried
}

async fn of_state(warden: &Warden) -> Trial {
    let what = format!("state {}", warden.config.state);
    let root = Root::connect(&warden.config.state).await;
    let there = match DeltaStore::open(&root).await {
        Ok(_) => "it is there",
        Err(StoreError::Missing(_)) => "the first run makes it",
        Err(error) => {
            let mend = "see [state] location; in S3 grant s3:GetObject on its prefix and s3:ListBucket on the bucket";
            return Trial::failed(what, error.to_string(), mend);
        }
    };
    if let Err(error) = root.can_write().await {
        let mend = match root {
            Root::Folder(_) => "let the user that runs it write there, or name another place in [state] location",
            Root::S3(_) => "grant s3:PutObject and s3:DeleteObject on the prefix of [state] location",
        };
        return Trial::failed(what, error.to_string(), mend);
    }
    match root.free_bytes() {
        Some(free) if free < LEAST_FREE_BYTES => Trial::problem(
            what,
            format!("{there}; {} MB are free", free / 1_000_000),
            "make room, or name another place",
        ),
        _ => Trial::good(what, format!("{there}, and can be written")),
    }
}

async fn of_waf(warden: &Warden) -> Vec<Trial> {
    let Some(group) = warden.rule_group().await else {
        let detail = "the config names no rule group in [waf]: what would be blocked is printed, and nothing is sent";
        return vec![Trial::skipped("waf", detail)];
    };
    let what = |what: &str| format!("waf {}: {what}", group.name());
    let snapshot = match group.read().await {
        Ok(snapshot) => snapshot,
        Err(error) => return vec![failed_waf(what("read"), &error)],
    };
    let ours = snapshot.rules.iter().filter(|rule| is_ours(rule)).count();
    let mut detail =
        format!("capacity {} WCU, {ours} rules of ours, {} of others", snapshot.capacity, snapshot.rules.len() - ours);
    // Ours stand behind all others.
    let allows = |rule: &&Rule| !is_ours(rule) && rule.action().is_some_and(|action| action.allow().is_some());
    let allowing: Vec<&str> = snapshot.rules.iter().filter(allows).map(Rule::name).collect();
    if !allowing.is_empty() {
        detail +=
            &format!("; what these allow is not blocked by ours, which stand behind them: {}", allowing.join(", "));
    }
    let mut tried = vec![match snapshot.rules.iter().find(|rule| is_of_the_solution(rule)) {
        None => Trial::good(what("read"), detail),
        Some(rule) => Trial::problem(
            what("read"),
            format!(
                "{detail}; {} is a rule of Secure Media Delivery, whose Lambda rewrites the whole group",
                rule.name()
            ),
            "give streamwarden a rule group of its own, and put both into the web ACL",
        ),
    }];
    tried.push(match group.cost(probe(&snapshot)).await {
        Ok(_) => Trial::good(what("cost"), "WAF tells what rules cost"),
        Err(error) => failed_waf(what("cost"), &error),
    });
    // With a lock token that nobody has: whoever may update is told that it is an old one.
    let stale = Snapshot { version: uuid::Uuid::new_v4().to_string(), ..snapshot.clone() };
    tried.push(match group.update(&stale, snapshot.rules.clone()).await {
        Err(WafError::Conflict { .. }) => Trial::good(what("update"), "it may be updated"),
        Err(error) => failed_waf(what("update"), &error),
        Ok(_) => Trial::problem(
            what("update"),
            "WAF took an update with an old lock token: two writers would not notice each other",
            "look at what stands in for WAF (AWS_ENDPOINT_URL)",
        ),
    });
    tried
}

fn failed_waf(what: String, error: &WafError) -> Trial {
    // What it lacks is in the error.
    Trial::failed(what, error.to_string(), "see [waf] name and id, and the IAM policy in docs/deployment.md")
}

/// Rules to ask the price of: those of the group, or where it has none one that counts a session that nobody has.
fn probe(snapshot: &Snapshot) -> Vec<Rule> {
    if !snapshot.rules.is_empty() {
        return snapshot.rules.clone();
    }
    let credential = Credential { component: Component::PathStart, text: "example-of-streamwarden".to_owned() };
    let target = Target { session_id: credential.text.clone(), credential };
    pack([&target].into_iter(), Mode::Count).rules.iter().map(|rule| rule.at_priority(0)).collect()
}

/// As Secure Media Delivery's `waf_updater` makes them: sixteen hexadecimal digits, metric `Example`.
fn is_of_the_solution(rule: &Rule) -> bool {
    let name = rule.name();
    let metric = rule.visibility_config().map(|visibility| visibility.metric_name());
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) && metric == Some("Example")
}

async fn of_dynamodb(warden: &Warden) -> Trial {
    let Some(dynamodb) = &warden.config.dynamodb else {
        return Trial::skipped("dynamodb", "the config names no table in [dynamodb]");
    };
    let what = format!("dynamodb {}", dynamodb.table);
    let client = crate::aws::dynamodb_client(dynamodb.region.clone()).await;
    match smd_table::read(&client, &dynamodb.table).await {
        Ok(contents) => Trial::good(what, format!("{} manual revocations", contents.manual.len())),
        Err(error) => Trial::failed(what, error.to_string(), "see [dynamodb] table and region"),
    }
}

async fn of_clock(warden: &Warden, clock: Clock) -> Trial {
    if let Clock::Fixed(now) = clock {
        return Trial::skipped("clock", format!("now is {}, by --now, STREAMWARDEN_NOW or the config", rfc3339(now)));
    }
    let config = &warden.config;
    let in_aws = config.logs.iter().map(|logs| &logs.location).chain([&config.state]).any(|place| place.is_s3());
    if !in_aws && config.waf.is_none() {
        return Trial::skipped("clock", "nothing of AWS is used, whose clock could be compared");
    }
    match crate::aws::clock_offset().await {
        None => Trial::skipped("clock", "AWS does not tell the time (a proxy?)"),
        Some(offset) if offset.abs() > MOST_OFFSET => Trial::problem(
            "clock",
            format!("it is {} s off that of AWS", offset.num_seconds()),
            "let this machine keep time (chrony, systemd-timesyncd)",
        ),
        Some(_) => Trial::good("clock", "it goes as that of AWS"),
    }
}

async fn of_detectors(warden: &Warden, clock: Clock) -> Trial {
    // Whatever they need, they are run.
    let shown_all = |detector: &Detector| Detector { needs: BTreeMap::new(), ..detector.clone() };
    let detectors: Vec<Detector> = warden.detectors.iter().map(shown_all).collect();
    let tried = async {
        let session = warden.engine.session_over(&MemoryStore::default(), clock.now()).await?;
        let inspection = Inspection::new(&warden.engine, &session, &detectors, &warden.config, Purpose::Record).await?;
        anyhow::Ok(inspection.try_without_rows(clock.now()).await)
    };
    let failed = match tried.await {
        Ok(failed) => failed,
        Err(error) => return Trial::failed("detectors", format!("{error:#}"), "see the queries of [detect] queries"),
    };
    if failed.is_empty() {
        return Trial::good("detectors", format!("{} compiled and run on an empty window", detectors.len()));
    }
    let told: Vec<String> = failed.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    let kind = AlarmKind::DetectorFailed.name();
    Trial::failed("detectors", told.join("; "), format!("mend their queries; see {kind} in docs/runbook.md"))
}

/// What became of the places of logs.
pub fn of_logs(logs: &[CheckedLogs], failures: &[String], clock: Clock) -> Vec<Trial> {
    let mut tried: Vec<Trial> = failures
        .iter()
        .map(|failure| {
            let mend = "see [[logs]] location; in S3 grant s3:ListBucket on the bucket and s3:GetObject on the prefix";
            Trial::failed("logs", failure, mend)
        })
        .collect();
    for place in logs {
        let what = format!("logs {}", place.location);
        let newest = place.newest_request.map_or("none".to_owned(), rfc3339);
        let ahead =
            place.newest_request.map(|newest| newest - clock.now()).filter(|ahead| *ahead > TimeDelta::minutes(5));
        tried.push(match ahead {
            Some(ahead) if clock == Clock::System => Trial::problem(
                what,
                format!("the newest request is {} in the future", Span::seconds(ahead.num_seconds())),
                "look at the clock of this machine; CloudFront writes UTC",
            ),
            _ if place.unreadable.is_empty() && place.objects > 0 => {
                Trial::good(what, format!("{} objects within lookback, the newest request of {newest}", place.objects))
            }
            _ if place.objects == 0 => Trial::problem(what, "no object within lookback", "see below"),
            _ => Trial::problem(
                what,
                format!("{} of the newest objects cannot be read", place.unreadable.len()),
                "see below",
            ),
        });
    }
    tried
}
