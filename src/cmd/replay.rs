//! `streamwarden replay`: what would have been found and blocked in any logs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;
use tempfile::NamedTempFile;

use super::{print, print_json, tell_alarms};
use crate::alarm::Ending;
use crate::cli::{Common, Output, UsageError, location};
use crate::pass::Warden;
use crate::replay::baseline::{Baseline, Change, Changes};
use crate::replay::delivery::Delivery;
use crate::replay::labels::{Label, Labels, Score};
use crate::replay::sweep::{Sweep, Swept};
use crate::replay::{Replayed, Request, replay, report};
use crate::text::table;
use crate::time::rfc3339;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder or s3://bucket/prefix with log objects; several may be given. Else those of the config.
    #[arg(long, value_name = "DIR|s3://…")]
    logs: Vec<String>,
    /// What the sessions are known to be: CSV with the header session_id,label,kind (the kind may lack), label being pirate,
    /// benign or grey (not counted).
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Judges the logs again with each of these values of a parameter, as many_ips.max_networks=4..12:2 (the step may lack); a
    /// table of what each comes to. Several make a grid.
    #[arg(long, value_name = "DETECTOR.PARAM=LO..HI[:STEP]")]
    sweep: Vec<Sweep>,
    /// What an earlier replay of the same logs printed with --output json: tells what has changed, by session.
    #[arg(long, value_name = "FILE.json")]
    baseline: Option<PathBuf>,
    /// Writes a page for a browser, which needs no network.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(common: &Common, args: Args) -> anyhow::Result<Ending> {
    let config = common.load()?;
    let now = common.clock(&config).now();
    let labels = args.labels.as_deref().map(Labels::load).transpose()?;
    let locations = args.logs.iter().map(|text| location(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let baseline = args.baseline.as_deref().map(Baseline::load).transpose()?;
    let page = args.report.map(Page::new).transpose()?;
    let warden = Warden::new(config).await?;
    let request = Request {
        locations: &locations,
        labels: labels.as_ref(),
        sweeps: &args.sweep,
        baseline: baseline.as_ref(),
        report: page.is_some(),
        progress: true,
    };
    let replayed = replay(&warden, &request, now).await?;
    if let (Some(page), Some(insight)) = (page, &replayed.insight) {
        let read = match args.logs.as_slice() {
            [] => "the logs of the config".to_owned(),
            logs => logs.join(", "),
        };
        page.write(&report::render(&replayed, insight, &read, now))?;
    }
    match args.output {
        Output::Json => print_json(&replayed)?,
        Output::Text => print(&text(&replayed))?,
    }
    Ok(tell_alarms(&replayed.alarms))
}

/// The file of the report: whether it can be written is known before anything is read.
struct Page {
    path: PathBuf,
    file: NamedTempFile,
}

impl Page {
    fn new(path: PathBuf) -> Result<Page, UsageError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let unusable = |error: &dyn std::fmt::Display| {
            UsageError(format!("--report {}: cannot be written: {error}", path.display()))
        };
        if path.is_dir() {
            return Err(unusable(&"it is a folder"));
        }
        let file = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(|error| unusable(&error))?;
        Ok(Page { path, file })
    }

    fn write(mut self, text: &str) -> anyhow::Result<()> {
        let place = self.path.display().to_string();
        self.file.write_all(text.as_bytes()).with_context(|| format!("--report {place}"))?;
        self.file.persist(&self.path).with_context(|| format!("--report {place}"))?;
        Ok(())
    }
}

fn text(replayed: &Replayed) -> String {
    let ingested = &replayed.ingested;
    let mut text = format!(
        "Replayed {} requests of {} sessions from {} objects in {:.1} s ({} lines rejected, {} objects duplicate, {} quarantined)\n",
        replayed.rows,
        replayed.sessions,
        ingested.ingested,
        replayed.seconds,
        ingested.rejected,
        ingested.duplicate,
        ingested.quarantined
    );
    if !replayed.findings.is_empty() {
        let rows: Vec<Vec<String>> = replayed
            .findings
            .iter()
            .map(|found| {
                vec![
                    found.session_id.clone(),
                    found.detector.clone(),
                    format!("{:.2}", found.score),
                    found.strength.name().to_owned(),
                    rfc3339(found.window_end),
                    numbers(&found.evidence),
                ]
            })
            .collect();
        let _ = write!(
            text,
            "\nFindings:\n{}",
            table(&["session", "detector", "score", "strength", "window to", "evidence"], &rows)
        );
    }
    if replayed.revocations.is_empty() {
        text += "\nNo session would have been blocked.\n";
    } else {
        let rows: Vec<Vec<String>> = replayed
            .revocations
            .iter()
            .map(|revocation| {
                vec![
                    revocation.session_id.clone(),
                    format!("{:.2}", revocation.score),
                    rfc3339(revocation.decided_at),
                    rfc3339(revocation.expires_at),
                    revocation.detectors.join(", "),
                ]
            })
            .collect();
        let _ = write!(
            text,
            "\n{} sessions would have been blocked:\n{}",
            rows.len(),
            table(&["session", "score", "at", "until", "detectors"], &rows)
        );
    }
    if !replayed.held.is_empty() {
        let _ =
            writeln!(text, "\nThe guard would have held {} of them: {}", replayed.held.len(), replayed.held.join(", "));
    }
    text += &delivery(&replayed.delivery);
    if let Some(evaluation) = &replayed.evaluation {
        let mut rows = vec![score_row("all, blocked", &evaluation.overall)];
        rows.extend(
            evaluation.detectors.iter().map(|(name, score)| score_row(&format!("detector {name}, found"), score)),
        );
        rows.extend(evaluation.kinds.iter().map(|(name, score)| score_row(&format!("kind {name}, blocked"), score)));
        let header = ["against the labels", "true +", "false +", "false -", "precision", "recall", "F1"];
        let _ = write!(text, "\n{}", table(&header, &rows));
        if evaluation.unlabelled > 0 {
            let _ = writeln!(text, "\n{} blocked sessions have no label and are not counted.", evaluation.unlabelled);
        }
    }
    if !replayed.sweep.is_empty() {
        let _ = write!(text, "\n{}", sweep(&replayed.sweep));
    }
    if let Some(changes) = &replayed.changes {
        text += &baseline(changes);
    }
    text
}

/// The numbers of the evidence; who used the session is for JSON and `explain`.
fn numbers(evidence: &str) -> String {
    let evidence: Value = serde_json::from_str(evidence).unwrap_or_default();
    let numbers = evidence.as_object().into_iter().flatten().filter(|(_, value)| !value.is_object());
    numbers.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

/// How long the sessions would have lived.
fn delivery(delivery: &Delivery) -> String {
    let minutes = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |seconds| format!("{:.1} min", seconds / 60.0));
    match &delivery.unknown {
        Some(why) => format!("\nTime to block: not known; {why}.\n"),
        None if delivery.blocked + delivery.not_blocked == 0 => String::new(),
        None => format!(
            "\nTime to block, from the first shared minute, with a pass every {}: median {}, 95 % within {}; {} of {} blocked \
             (objects arrive {} after their last request, 95 % within {})\n",
            minutes(Some(delivery.schedule_seconds)),
            minutes(delivery.seconds_to_block.median),
            minutes(delivery.seconds_to_block.p95),
            delivery.blocked,
            delivery.blocked + delivery.not_blocked,
            minutes(delivery.lag_seconds.median),
            minutes(delivery.lag_seconds.p95)
        ),
    }
}

/// A row for each combination; `*` marks the best F1.
fn sweep(rows: &[Swept]) -> String {
    let best = rows.iter().filter_map(|row| row.overall?.f1).fold(f64::NEG_INFINITY, f64::max);
    let Some(first) = rows.first() else { return String::new() };
    let mut header: Vec<&str> = first.settings.keys().map(String::as_str).collect();
    header.extend(["blocked", "true +", "false +", "false -", "precision", "recall", "F1", "best"]);
    let alone: Vec<String> = first.detectors.keys().map(|name| format!("{name} alone: P R F1")).collect();
    header.extend(alone.iter().map(String::as_str));
    let cells = |row: &Swept| {
        let mut cells: Vec<String> = row
            .settings
            .values()
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            .collect();
        let mut score = score_row("", &row.overall.unwrap_or_default());
        score[0] = row.revocations.to_string();
        cells.extend(score);
        let is_best = row.overall.and_then(|score| score.f1).is_some_and(|f1| f1 == best);
        cells.push(if is_best { "*" } else { "" }.to_owned());
        cells.extend(row.detectors.values().map(|score| score_row("", score)[4..].join(" ")));
        cells
    };
    table(&header, &rows.iter().map(cells).collect::<Vec<_>>())
}

fn baseline(changes: &Changes) -> String {
    let mut text = String::new();
    if !changes.same_logs {
        text += "\nThe baseline was made of other logs: the comparison says little.\n";
    }
    let header = ["session", "known to be", "score", "at", "detectors", "was"];
    for (title, rows) in [
        ("blocked now, not in the baseline", &changes.added),
        ("blocked in the baseline, not now", &changes.removed),
        ("blocked in both, otherwise", &changes.changed),
    ] {
        let _ = writeln!(text, "\n{} {title}{}", rows.len(), if rows.is_empty() { "." } else { ":" });
        if !rows.is_empty() {
            text += &table(&header, &rows.iter().map(change).collect::<Vec<_>>());
        }
    }
    let _ = writeln!(text, "\n{} are blocked in both alike.", changes.same);
    text
}

fn change(change: &Change) -> Vec<String> {
    let revocation = &change.revocation;
    let known = [change.label.map(Label::name), change.kind.as_deref()].into_iter().flatten().collect::<Vec<_>>();
    let was = change.was.as_ref();
    vec![
        revocation.session_id.clone(),
        known.join(" "),
        format!("{:.2}", revocation.score),
        rfc3339(revocation.decided_at),
        revocation.detectors.join(", "),
        was.map_or(String::new(), |was| {
            format!("{} {:.2} {}", rfc3339(was.decided_at), was.score, was.detectors.join(", "))
        }),
    ]
}

fn score_row(name: &str, score: &Score) -> Vec<String> {
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
    vec![
        name.to_owned(),
        score.true_positives.to_string(),
        score.false_positives.to_string(),
        score.false_negatives.to_string(),
        ratio(score.precision),
        ratio(score.recall),
        ratio(score.f1),
    ]
}
