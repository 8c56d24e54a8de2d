//! `streamwarden query`: SQL over every table.

use std::io::IsTerminal;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, TimeDelta, Utc};
use clap::ValueEnum;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::prelude::{DataFrame, SessionContext};
use parquet::arrow::ArrowWriter;
use rustyline::error::ReadlineError;

use super::{print, warn_of_unknown};
use crate::alarm::Ending;
use crate::cli::{Common, UsageError};
use crate::detect::catalog::register_lists;
use crate::detect::file::Detector;
use crate::engine::{self, Sql, sql, timestamp};
use crate::pass::Warden;
use crate::requests::{RequestsTable, places};
use crate::rows;
use crate::schema::Table;
use crate::store::{DeltaStore, Root};
use crate::text::{csv_cell, json_line, printable, table};
use crate::time::Span;

/// What a saved query is about, if nobody says.
const SAVED_SINCE: TimeDelta = TimeDelta::days(7);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How rows are printed: json is one object a line.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// A query that comes with the program.
    #[arg(long, value_enum, value_name = "NAME", conflicts_with = "sql")]
    saved: Option<Saved>,
    /// The time that a saved query is about, up to now (or --now); by default 7d.
    #[arg(long, value_name = "SPAN")]
    since: Option<Span>,
    /// The detector that the saved query detector_findings is about; else all.
    #[arg(long, value_name = "NAME")]
    detector: Option<String>,
    /// One SELECT; without it a prompt, or what stdin has. Tables: activity, refusals, deliveries, credentials, findings,
    /// revocations, active_revocations, enforcement, syncs, notifications, objects, runs, the lists of the config, and requests,
    /// which is read from the log objects.
    sql: Option<String>,
}

/// The queries of queries/reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Saved {
    /// What mode enforce would have blocked, while the mode was observe or count.
    WouldHaveBlocked,
    /// Each block in WAF, with its first refusal and the last request that was served after it.
    BlockEffects,
    /// Rules, sessions and WCU of the rule group over time.
    Capacity,
    /// What a detector found (--detector), or all of them, by session.
    DetectorFindings,
    /// How long each automatic block took, from the first shared minute to the decision, to WAF and to the first refusal.
    TimeToBlock,
    /// The sessions that were decided on, those with the most blocks first.
    TopOffenders,
}

impl Saved {
    fn sql(self) -> Sql {
        match self {
            Saved::WouldHaveBlocked => sql!("reports/would_have_blocked.sql"),
            Saved::BlockEffects => sql!("reports/block_effects.sql"),
            Saved::Capacity => sql!("reports/capacity.sql"),
            Saved::DetectorFindings => sql!("reports/detector_findings.sql"),
            Saved::TimeToBlock => sql!("reports/time_to_block.sql"),
            Saved::TopOffenders => sql!("reports/top_offenders.sql"),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Csv,
    Json,
    Parquet,
}

pub async fn run(common: &Common, args: Args) -> anyhow::Result<Ending> {
    if args.detector.is_some() && args.saved != Some(Saved::DetectorFindings) {
        return Err(UsageError("--detector goes with --saved detector_findings".to_owned()).into());
    }
    if args.since.is_some() && args.saved.is_none() {
        return Err(UsageError("--since goes with --saved; a query of your own says WHERE time > …".to_owned()).into());
    }
    let config = common.load()?;
    let now = common.clock(&config).now();
    let warden = Warden::new(config).await?;
    let store = DeltaStore::open(&Root::connect(&warden.config.state).await).await?;
    let session = warden.engine.session_over(&store, now).await?;
    engine::optimize_fully(&session);
    take_for_now(&session, now);
    let places = places(&warden.config.logs, now).await;
    let requests = RequestsTable::new(places, warden.context.clone());
    session.register_table(Table::Requests.name(), Arc::new(requests))?;
    register_lists(&session, &warden.config.lists)?;
    if let Some(saved) = args.saved {
        warn_of_unknown(args.detector.as_deref(), &warden.detectors);
        let modes = detector_modes(&warden)?;
        engine::replace(&session, "detector_modes", modes.schema(), vec![modes])?;
        let parameters = vec![
            ("since", timestamp(now - args.since.map_or(SAVED_SINCE, Span::delta))),
            ("until", timestamp(now)),
            ("detector", ScalarValue::Utf8(args.detector)),
        ];
        return show(engine::prepare(&session, saved.sql(), parameters).await?, args.format).await;
    }
    match args.sql {
        Some(text) => show(asked(&session, &text).await?, args.format).await,
        None if std::io::stdin().is_terminal() => prompt(&session, args.format).await,
        None => show(asked(&session, &std::io::read_to_string(std::io::stdin())?).await?, args.format).await,
    }
}

/// What SQL calls now is the time that everything else takes for it.
fn take_for_now(session: &SessionContext, now: DateTime<Utc>) {
    let instant = ScalarValue::TimestampMicrosecond(Some(now.timestamp_micros()), Some("UTC".into()));
    let day = ScalarValue::Date32(i32::try_from(now.timestamp().div_euclid(86_400)).ok());
    let midnight = now.timestamp_nanos_opt().unwrap_or_default().rem_euclid(86_400_000_000_000);
    let time = ScalarValue::Time64Nanosecond(Some(midnight));
    let functions = [
        ("now", vec!["current_timestamp"], instant),
        ("current_date", vec!["today"], day),
        ("current_time", vec![], time),
    ];
    for (name, aliases, value) in functions {
        let (kind, value) = (value.data_type(), ColumnarValue::Scalar(value));
        let function = create_udf(name, vec![], kind, Volatility::Immutable, Arc::new(move |_| Ok(value.clone())));
        session.register_udf(function.with_aliases(aliases));
    }
}

/// The rows that a person asks for.
async fn asked(session: &SessionContext, text: &str) -> anyhow::Result<DataFrame> {
    let frame = engine::select(session, text).await.map_err(|error| UsageError(error.strip_backtrace()))?;
    if let Some(parameter) = frame.logical_plan().get_parameter_names()?.into_iter().next() {
        return Err(UsageError(format!("{parameter}: a query has no parameters")).into());
    }
    Ok(frame)
}

/// Asks for statements, each up to a semicolon, until the end of input or `exit`. The tables are as they were at the start.
async fn prompt(session: &SessionContext, format: Format) -> anyhow::Result<Ending> {
    let mut editor = rustyline::DefaultEditor::new()?;
    let mut statement = String::new();
    loop {
        let line = match editor.readline(if statement.is_empty() { "streamwarden> " } else { "          ...> " }) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                statement.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(Ending::Done),
            Err(error) => return Err(error.into()),
        };
        if statement.is_empty() && matches!(line.trim().trim_end_matches(';'), "exit" | "quit" | "\\q") {
            return Ok(Ending::Done);
        }
        statement += &line;
        statement.push('\n');
        if line.trim_end().ends_with(';') {
            let text = std::mem::take(&mut statement);
            editor.add_history_entry(text.trim())?;
            let shown = async { show(asked(session, &text).await?, format).await };
            if let Err(error) = shown.await {
                tracing::error!("{}", printable(&format!("{error:#}")));
            }
        }
    }
}

/// Prints the rows.
async fn show(frame: DataFrame, format: Format) -> anyhow::Result<Ending> {
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let batches = frame.collect().await?;
    match format {
        Format::Table => {
            let header: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            print(&table(&header, &cells(&batches)?))?;
        }
        Format::Csv => print(&csv(&schema, &batches)?)?,
        Format::Json => {
            for row in rows::to_json(&batches).map_err(anyhow::Error::msg)? {
                print(&(json_line(&row)? + "\n"))?;
            }
        }
        Format::Parquet => {
            let mut writer = ArrowWriter::try_new(std::io::stdout(), schema, None)?;
            for batch in &batches {
                writer.write(batch)?;
            }
            writer.close()?;
        }
    }
    Ok(Ending::Done)
}

/// The own mode of each detector.
fn detector_modes(warden: &Warden) -> anyhow::Result<RecordBatch> {
    let texts = |of: fn(&Detector) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(warden.detectors.iter().map(of)))
    };
    let names = texts(|detector| &detector.name);
    Ok(RecordBatch::try_from_iter([("detector", names), ("mode", texts(|detector| detector.mode.name()))])?)
}

/// Every cell as text; nulls are empty.
fn cells(batches: &[RecordBatch]) -> anyhow::Result<Vec<Vec<String>>> {
    let options = FormatOptions::default().with_timestamp_tz_format(Some("%Y-%m-%dT%H:%M:%S%.fZ"));
    let mut rows = Vec::new();
    for batch in batches {
        let formatters = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            rows.push(formatters.iter().map(|column| column.value(row).to_string()).collect());
        }
    }
    Ok(rows)
}

fn csv(schema: &arrow::datatypes::Schema, batches: &[RecordBatch]) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(schema.fields().iter().map(|field| csv_cell(field.name()).into_owned()))?;
    // Numbers may begin with a minus; text that a spreadsheet would take for a formula may not.
    let is_text: Vec<bool> = schema
        .fields()
        .iter()
        .map(|field| {
            !(field.data_type().is_numeric()
                || matches!(field.data_type(), DataType::Boolean | DataType::Timestamp(..)))
        })
        .collect();
    for row in cells(batches)? {
        writer.write_record(
            row.iter().zip(&is_text).map(
                |(cell, is_text)| {
                    if *is_text { csv_cell(cell).into_owned() } else { cell.clone() }
                },
            ),
        )?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}
