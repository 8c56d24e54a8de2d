//! `streamwarden run`: one pass.

use std::fmt::Write;

use tokio_util::sync::CancellationToken;

use super::{NO_GROUP, plan_text, print, print_json};
use crate::alarm::Ending;
use crate::cli::{Common, Output};
use crate::history::{Event, EventKind};
use crate::pass::enforce::WafState;
use crate::pass::{Options, Outcome, Warden};
use crate::signals::Signals;
use crate::text::table;
use crate::time::rfc3339;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Write nothing and send nothing.
    #[arg(long)]
    dry_run: bool,
    /// Wait for another run to end instead of leaving with exit code 4.
    #[arg(long)]
    wait: bool,
    /// Block the sessions that the guard has held: somebody looked at them.
    #[arg(long)]
    release_held: bool,
    /// Try the objects again that were quarantined.
    #[arg(long)]
    retry_quarantined: bool,
}

pub async fn run(common: &Common, args: Args) -> anyhow::Result<Ending> {
    let config = common.load()?;
    let clock = common.clock(&config);
    let warden = Warden::new(config).await?;
    let options = Options {
        dry_run: args.dry_run,
        wait: args.wait,
        release_held: args.release_held,
        retry_quarantined: args.retry_quarantined,
        progress: true,
    };
    let cut = cut_by_signal()?;
    let outcome = warden.pass(clock, &common.run_id, options, &cut).await?;
    match args.output {
        Output::Json => print_json(&outcome.summary)?,
        Output::Text => print(&text(&outcome, args.dry_run))?,
    }
    outcome.log_alarms();
    Ok(outcome.ending())
}

/// Cancelled by SIGTERM or SIGINT: the lock of a state in S3 is given back, and need not run out.
fn cut_by_signal() -> anyhow::Result<CancellationToken> {
    let cut = CancellationToken::new();
    let mut signals = Signals::new()?;
    let cancel = cut.clone();
    tokio::spawn(async move {
        signals.received().await;
        cancel.cancel();
        // Whoever asks twice does not want to wait.
        signals.received().await;
        std::process::exit(1);
    });
    Ok(cut)
}

fn text(outcome: &Outcome, dry_run: bool) -> String {
    let summary = &outcome.summary;
    let (objects, rows) = (&summary.objects, &summary.rows);
    let mut text = format!(
        "Run {} at {}{}\n\n",
        summary.run_id,
        rfc3339(outcome.now),
        if dry_run { ", dry: nothing is written" } else { "" }
    );
    let _ = writeln!(
        text,
        "  objects   {} listed: {} ingested, {} duplicate, {} quarantined",
        objects.listed, objects.ingested, objects.duplicate, objects.quarantined
    );
    let _ = writeln!(
        text,
        "  requests  {} read ({} accepted, {} refused, {} without a session); {} lines rejected",
        rows.read, rows.accepted, rows.refused, rows.without_session, rows.rejected
    );
    let findings: Vec<String> =
        summary.detectors.iter().map(|(name, stats)| format!("{name} {}", stats.findings)).collect();
    let _ = writeln!(text, "  findings  {}", findings.join(", "));
    let _ = writeln!(
        text,
        "  sessions  {} revoked, {} extended, {} expired, {} held, {} observed",
        summary.revoked, summary.extended, summary.expired, summary.held, summary.observed
    );
    if summary.spared.requests > 0 || summary.restored > 0 {
        let (requests, sessions, restored) = (summary.spared.requests, summary.spared.sessions, summary.restored);
        let _ = writeln!(
            text,
            "  allowed   {requests} requests of {sessions} sessions not looked at, {restored} sessions restored"
        );
    }
    text += &events_text("Revoked", &outcome.events, &[EventKind::Revoked, EventKind::Released]);
    text += &events_text("Extended", &outcome.events, &[EventKind::Extended]);
    text += &events_text("Expired", &outcome.events, &[EventKind::Expired]);
    text += &events_text("Restored", &outcome.events, &[EventKind::Restored]);
    text += &events_text("Held by the guard, not blocked", &outcome.events, &[EventKind::Held]);
    text += &events_text("Observed, not blocked", &outcome.events, &[EventKind::Observed]);
    let title = match outcome.enforced.waf {
        WafState::NoGroup => NO_GROUP,
        WafState::Planned => "WAF plan, not sent",
        WafState::Updated => "WAF rule group, updated",
        WafState::Unchanged => "WAF rule group, in force already",
        WafState::NotInStep => "WAF rule group: NOT IN STEP, it keeps the rules it has\n",
    };
    let plan = match outcome.enforced.waf {
        WafState::NotInStep => String::new(),
        _ => format!(": {}", plan_text(&outcome.enforced)),
    };
    let _ = write!(text, "\n{title}{plan}");
    for failure in outcome.failures() {
        let _ = writeln!(text, "\nFAILED: {}", crate::text::printable(&failure.text));
    }
    text
}

/// The events of some kinds, as a table under a title; nothing if there are none.
fn events_text(title: &str, events: &[Event], kinds: &[EventKind]) -> String {
    let rows: Vec<Vec<String>> = events
        .iter()
        .filter(|event| kinds.contains(&event.event))
        .map(|event| {
            vec![
                event.session_id.clone(),
                event.score.map_or(String::new(), |score| format!("{score:.2}")),
                event.expires_at.map_or("-".to_owned(), rfc3339),
                event.mode.name().to_owned(),
                event.reason.clone().unwrap_or_default(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\n{title}:\n{}", table(&["session", "score", "until", "mode", "why"], &rows))
}
