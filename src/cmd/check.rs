//! `streamwarden check`: what the newest logs show, and what is missing.

use std::fmt::Write;

use super::{print, print_json};
use crate::check::{Checked, check};
use crate::cli::{Common, Exit, Output};
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

pub async fn run(common: &Common, args: Args) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let now = common.clock(&config).now();
    let warden = Warden::new(config).await?;
    let checked = check(&warden, now).await?;
    match args.output {
        Output::Json => print_json(&checked)?,
        Output::Text => print(&text(&checked))?,
    }
    for failure in &checked.failures {
        tracing::error!("{}", printable(failure));
    }
    let problem = checked.notices.iter().any(|notice| notice.severity == Severity::Problem);
    Ok(match (checked.failures.is_empty(), problem) {
        (false, _) => Exit::Failed,
        (true, true) => Exit::Attention,
        (true, false) => Exit::Done,
    })
}

fn text(checked: &Checked) -> String {
    let mut text = String::new();
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
    if checked.notices.is_empty() {
        text += "\nNothing is missing.\n";
    }
    for notice in &checked.notices {
        let mark = if notice.severity == Severity::Problem { "!" } else { "-" };
        let _ = write!(text, "\n{mark} {}\n  {}\n", printable(&notice.what), notice.mend);
    }
    text
}
