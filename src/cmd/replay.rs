//! `streamwarden replay`: what would have been found and blocked in any logs.

use std::fmt::Write;
use std::path::PathBuf;

use super::{print, print_json};
use crate::cli::{Common, Exit, Output, location};
use crate::pass::Warden;
use crate::replay::labels::{Labels, Score};
use crate::replay::{Replayed, replay};
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
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(common: &Common, args: Args) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let now = common.clock(&config).now();
    let labels = args.labels.as_deref().map(Labels::load).transpose()?;
    let locations = args.logs.iter().map(|text| location(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let warden = Warden::new(config).await?;
    let replayed = replay(&warden, &locations, labels.as_ref(), now, true).await?;
    match args.output {
        Output::Json => print_json(&replayed)?,
        Output::Text => print(&text(&replayed))?,
    }
    for failure in &replayed.failures {
        tracing::error!("{}", crate::text::printable(failure));
    }
    for alarm in &replayed.ingested.alarms {
        tracing::warn!("{}", crate::text::printable(alarm));
    }
    Ok(match &replayed {
        replayed if !replayed.failures.is_empty() => Exit::Failed,
        replayed if !replayed.ingested.alarms.is_empty() => Exit::Attention,
        _ => Exit::Done,
    })
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
                    found.evidence.to_string(),
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
    text
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
