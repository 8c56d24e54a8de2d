//! `streamwarden history`: the events, as people ask for them.

use datafusion::common::ScalarValue;

use super::{print, print_json, warn_of_unknown};
use crate::alarm::Ending;
use crate::cli::{Common, Output};
use crate::detect::catalog;
use crate::engine::{Engine, Sql, fetch, sql, timestamp};
use crate::history::Event;
use crate::store::{DeltaStore, Root};
use crate::text::table;
use crate::time::{Span, rfc3339};

const HISTORY: Sql = sql!("engine/history.sql");

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of this session only.
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// How far back.
    #[arg(long, default_value = "24h", value_name = "SPAN")]
    since: Span,
    /// Of this detector only, alone or with others.
    #[arg(long, value_name = "NAME")]
    detector: Option<String>,
    /// json is one object a line.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(common: &Common, args: Args) -> anyhow::Result<Ending> {
    let config = common.load()?;
    let now = common.clock(&config).now();
    let engine = Engine::new(&config.engine)?;
    let store = DeltaStore::open(&Root::connect(&config.state).await).await?;
    let session = engine.session_over(&store, now).await?;
    if args.detector.is_some() {
        warn_of_unknown(args.detector.as_deref(), &catalog::load(&config, &engine).await?);
    }
    let parameters = vec![
        ("since", timestamp(now - args.since.delta())),
        ("session", ScalarValue::Utf8(args.session)),
        ("detector", ScalarValue::Utf8(args.detector)),
    ];
    let events: Vec<Event> = fetch(&session, HISTORY, parameters).await?;
    match args.output {
        Output::Json => {
            for event in &events {
                print_json(event)?;
            }
        }
        Output::Text if events.is_empty() => {
            print(&format!("No event since {}.\n", rfc3339(now - args.since.delta())))?
        }
        Output::Text => {
            let rows: Vec<Vec<String>> = events
                .iter()
                .map(|event| {
                    vec![
                        rfc3339(event.time),
                        event.event.name().to_owned(),
                        event.session_id.clone(),
                        event.mode.name().to_owned(),
                        event.expires_at.map_or("-".to_owned(), rfc3339),
                        event.actor.clone(),
                        event.reason.clone().unwrap_or_default(),
                    ]
                })
                .collect();
            print(&table(&["time", "event", "session", "mode", "until", "by", "why"], &rows))?;
        }
    }
    Ok(Ending::Done)
}
