//! `streamwarden explain`: everything that is known of one session, and why it is blocked or not.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};

use super::{print, print_json};
use crate::alarm::Ending;
use crate::cli::{Common, Output};
use crate::explain::{Explained, Judgement, NetworkUse, explain};
use crate::history::Standing;
use crate::pass::Warden;
use crate::store::{DeltaStore, Root};
use crate::text::{printable, table};
use crate::time::rfc3339;

/// Columns of the timeline.
const TIMELINE: i64 = 40;

/// Networks and user agents that are shown; json has all.
const SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The session id.
    session: String,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(common: &Common, args: Args) -> anyhow::Result<Ending> {
    let config = common.load()?;
    let now = common.clock(&config).now();
    let warden = Warden::new(config).await?;
    let store = DeltaStore::open(&Root::connect(&warden.config.state).await).await?;
    let Some(explained) = explain(&warden, &store, &args.session, now).await? else {
        anyhow::bail!(
            "nothing is known of the session {}: no request of the last {} and no event names it",
            printable(&args.session),
            warden.config.activity_retention
        );
    };
    match args.output {
        Output::Json => print_json(&explained)?,
        Output::Text => print(&text(&explained))?,
    }
    Ok(Ending::Done)
}

fn text(session: &Explained) -> String {
    let mut text = format!("Session {}\n\n", printable(&session.session_id));
    let mut fact = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<10} {}", printable(&value));
    };
    match &session.block {
        Some(block) => {
            let since = block.revoked_at.map_or("?".to_owned(), rfc3339);
            fact("blocked", format!("{}, since {since}, until {}", block.mode.name(), rfc3339(block.expires_at)));
            fact("", block.reason.clone().unwrap_or_default());
        }
        None if Standing::of(&session.events).held => {
            let held =
                "no, held: `run --release-held` lets it through to WAF, `restore` drops it (why: see its history)";
            fact("blocked", held.to_owned());
        }
        None => fact("blocked", "no".to_owned()),
    }
    if let Some(seen) = &session.seen {
        let of = format!("{} accepted requests, {} segments", seen.requests, seen.segments);
        fact("seen", format!("{} to {}, {of}", rfc3339(seen.first_seen), rfc3339(seen.last_seen)));
        let id = if seen.derived {
            "stands for a signature, which many can share".to_owned()
        } else {
            format!("{} covered by the token's signature", seen.bound)
        };
        let expires = seen.token_expires.map_or("is not known".to_owned(), rfc3339);
        fact("its id", format!("{id}; the token's end {expires}"));
    }
    fact("refused", format!("{} requests that claimed it", session.refused));
    networks(session, &mut text);
    let rows: Vec<Vec<String>> = session
        .user_agents
        .iter()
        .take(SHOWN)
        .map(|agent| {
            vec![
                agent.segments.to_string(),
                agent.networks.to_string(),
                clock(agent.first_seen),
                clock(agent.last_seen),
                agent.user_agent.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let _ = write!(text, "\nUser agents ({}):\n", session.user_agents.len());
        text += &table(&["segments", "networks", "first", "last", "user agent"], &rows);
    }
    text += "\nDetectors:\n";
    let rows: Vec<Vec<String>> = session.detectors.iter().map(judgement).collect();
    text += &table(&["detector", "says", "numbers of thresholds", "window"], &rows);
    text += "\nHistory:\n";
    let rows: Vec<Vec<String>> = session
        .events
        .iter()
        .map(|event| {
            vec![
                rfc3339(event.time),
                event.event.name().to_owned(),
                event.expires_at.map_or("-".to_owned(), rfc3339),
                event.actor.clone(),
                event.reason.clone().unwrap_or_default(),
            ]
        })
        .collect();
    text +=
        &if rows.is_empty() { "  none\n".to_owned() } else { table(&["time", "event", "until", "by", "why"], &rows) };
    text
}

fn networks(session: &Explained, text: &mut String) {
    let minutes = session.networks.iter().flat_map(|network| network.minutes.keys().copied());
    let (Some(first), Some(last)) = (minutes.clone().min(), minutes.max()) else { return };
    let rows: Vec<Vec<String>> = session
        .networks
        .iter()
        .take(SHOWN)
        .map(|network| {
            let dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
            vec![
                dash(&network.network),
                dash(&network.country),
                network.asn.map_or("-".to_owned(), |asn| asn.to_string()),
                dash(&network.network_type),
                network.device.clone(),
                network.segments.to_string(),
                clock(network.first_seen),
                clock(network.last_seen),
                timeline(network, first, last),
            ]
        })
        .collect();
    let _ = write!(text, "\nNetworks ({}), {} to {}:\n", session.networks.len(), clock(first), clock(last));
    *text += &table(&["network", "country", "asn", "type", "device", "segments", "first", "last", "when"], &rows);
}

/// When a network was there: a column is some minutes, # where it fetched segments, + where only other things.
fn timeline(network: &NetworkUse, first: DateTime<Utc>, last: DateTime<Utc>) -> String {
    let minutes = (last - first).num_minutes() + 1;
    let columns = minutes.min(TIMELINE);
    (0..columns)
        .map(|column| {
            let at = |column: i64| first + TimeDelta::minutes(minutes * column / columns);
            let mut there = network.minutes.range(at(column)..at(column + 1)).map(|(_, segments)| *segments);
            match there.clone().max() {
                None => '.',
                Some(_) if there.any(|segments| segments > 0) => '#',
                Some(_) => '+',
            }
        })
        .collect()
}

fn judgement(judgement: &Judgement) -> Vec<String> {
    let says = match &judgement.found {
        Some(found) => format!("{}, {:.2}", found.strength.name(), found.score),
        None => "-".to_owned(),
    };
    let numbers: Vec<String> = judgement
        .numbers
        .iter()
        .map(|number| format!("{} {} of {}", number.name, rounded(number.value), rounded(number.threshold)))
        .collect();
    let window = match (judgement.window_start, judgement.window_end) {
        (Some(start), Some(end)) => format!("{} to {}", clock(start), clock(end)),
        _ => "-".to_owned(),
    };
    let numbers = if numbers.is_empty() { "nothing near".to_owned() } else { numbers.join(", ") };
    vec![judgement.detector.clone(), says, numbers, window]
}

fn rounded(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Day and time, without the year.
fn clock(time: DateTime<Utc>) -> String {
    time.format("%m-%d %H:%M:%S").to_string()
}
