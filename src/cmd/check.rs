//! `streamwarden check`: what the newest logs show, and what is missing.

use std::fmt::Write;

use super::{print, print_json};
use crate::alarm::Ending;
use crate::check::{Checked, Outcome, check};
use crate::cli::{Common, Output};
use crate::notices::Severity;
use crate::pass::Warden;
use crate::text::{printable, table};
use crate::time::rfc3339;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(common: &Common, args: Args) -> anyhow::Result<Ending> {
    let config = common.load()?;
    let clock = common.clock(&config);
    let warden = Warden::new(config).await?;
    let checked = check(&warden, clock).await?;
    match args.output {
        Output::Json => print_json(&checked)?,
        Output::Text => print(&text(&checked))?,
    }
    for failure in &checked.failures {
        tracing::error!("{}", printable(failure));
    }
    let tried = |outcome| checked.tried.iter().any(|trial| trial.outcome == outcome);
    let problem = checked.notices.iter().any(|notice| notice.severity == Severity::Problem);
    Ok(match (tried(Outcome::Failed), problem || tried(Outcome::Problem)) {
        (true, _) => Ending::Failed,
        (false, true) => Ending::Attention,
        (false, false) => Ending::Done,
    })
}

/// Lines that are harmless one by one.
fn printable_lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", printable(line))).collect()
}

fn text(checked: &Checked) -> String {
    let mut text = format!("# The config, with every default\n{}\n", printable_lines(&checked.config.to_string()));
    for logs in &checked.logs {
        let formats: Vec<String> = logs.formats.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let newest = logs.newest_request.map_or("-".to_owned(), rfc3339);
        let fields: Vec<&str> = logs.fields.iter().map(String::as_str).collect();
        let _ = writeln!(
            text,
            "{}\n  objects   {} within lookback; of the newest were read: {}\n  requests  {} read, {} rejected, the newest of {newest}\n  \
             fields    {}",
            printable(&logs.location),
            logs.objects,
            if formats.is_empty() { "none".to_owned() } else { formats.join(", ") },
            logs.rows,
            logs.rejected,
            printable(&fields.join(" ")),
        );
    }
    let rows: Vec<Vec<String>> = checked
        .schemes
        .iter()
        .map(|scheme| {
            vec![
                scheme.scheme.to_owned(),
                if scheme.configured { "yes" } else { "no" }.to_owned(),
                format!("{:.1} %", scheme.share * 100.0),
                scheme.bound.to_string(),
                scheme.derived.to_string(),
                scheme.sessions.to_string(),
                format!("{:.1} / {}", scheme.mean_networks, scheme.most_networks),
            ]
        })
        .collect();
    let header =
        ["scheme", "in config", "of accepted", "bound", "derived", "sessions", "networks per session, mean / most"];
    let _ = write!(text, "\nOf {} accepted requests:\n{}", checked.accepted, table(&header, &rows));
    let rows: Vec<Vec<String>> = checked
        .tried
        .iter()
        .map(|trial| {
            let outcome = match trial.outcome {
                Outcome::Good => "good",
                Outcome::Problem => "LOOK",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "-",
            };
            vec![outcome.to_owned(), trial.what.clone(), trial.detail.clone()]
        })
        .collect();
    let _ = write!(text, "\nTried, with nothing changed:\n{}", table(&["", "what", ""], &rows));
    for trial in checked.tried.iter().filter(|trial| trial.mend.is_some()) {
        let mend = trial.mend.as_deref().unwrap_or_default();
        let _ = write!(text, "\n! {}: {}\n  {}\n", printable(&trial.what), printable(&trial.detail), printable(mend));
    }
    if checked.notices.is_empty() && checked.tried.iter().all(|trial| trial.mend.is_none()) {
        text += "\nNothing is missing.\n";
    }
    for notice in &checked.notices {
        let mark = if notice.severity == Severity::Problem { "!" } else { "-" };
        let _ = write!(text, "\n{mark} {}\n  {}\n", printable(&notice.what), notice.mend);
    }
    text
}
