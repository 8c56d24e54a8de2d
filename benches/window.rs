//! What each detector takes for one crowded window: `cargo bench --bench window -- SESSIONS MINUTES` (a million sessions of ten
//! minutes, so ten million rows of `activity`, if nothing is said) prints a table.
//!
//! Everybody watches in the same minutes. One session in a hundred is used by twelve networks in three countries.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringViewArray, TimestampMicrosecondArray, new_null_array};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, TimeDelta, Utc};
use streamwarden::config::Config;
use streamwarden::detect::{Purpose, detect};
use streamwarden::ingest::INGEST;
use streamwarden::pass::Warden;
use streamwarden::progress::Stage;
use streamwarden::schema::Table;
use streamwarden::store::{MemoryStore, Store, Transaction};

const CONFIG: &str =
    "[state]\nlocation = \"state\"\n[[logs]]\nlocation = \"logs\"\n[[session]]\nscheme = \"secure-media-delivery\"\n";

/// Rows in a record batch.
const ROWS: usize = 8_192;

/// A session, in a minute.
#[derive(Clone, Copy)]
struct Cell {
    session: usize,
    minute: usize,
}

impl Cell {
    fn is_shared(self) -> bool {
        self.session.is_multiple_of(100)
    }

    /// Which of its networks a session is used from.
    fn place(self) -> usize {
        if self.is_shared() { self.minute % 12 } else { 0 }
    }

    fn network(self) -> String {
        let number = self.session * 12 + self.place();
        format!("{}.{}.{}.{}", 11 + (number >> 24), number >> 16 & 255, number >> 8 & 255, number & 255)
    }
}

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (sessions, minutes) = (numbers.next().unwrap_or(1_000_000), numbers.next().unwrap_or(10));
    let config = Config::parse(CONFIG, std::path::Path::new("/nowhere/streamwarden.toml")).expect("a config");
    let warden = Warden::new(config).await.expect("the built-in detectors");
    // A multiple of the step of every detector.
    let start: DateTime<Utc> = "2026-11-20T20:00:00Z".parse().expect("a time");
    let cells: Vec<Cell> =
        (0..minutes).flat_map(|minute| (0..sessions).map(move |session| Cell { session, minute })).collect();
    let activity: Vec<RecordBatch> = cells.chunks(ROWS).map(|cells| rows(Table::Activity, cells, start)).collect();
    let deliveries: Vec<RecordBatch> = cells
        .chunks(ROWS)
        .map(|cells| {
            let recorded: Vec<Cell> = cells.iter().copied().filter(|cell| cell.session % 8 == 0).collect();
            rows(Table::Deliveries, &recorded, start)
        })
        .collect();
    drop(cells);
    println!("{sessions} sessions, {} rows of activity, {} MB resident", sessions * minutes, resident());
    println!("| detector | windows | seconds a window | findings | seconds in all | most MB so far |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for detector in &warden.detectors {
        let store = MemoryStore::default();
        for (table, rows) in [(Table::Deliveries, &deliveries), (Table::Activity, &activity)] {
            store.append(table, rows.clone(), &[Transaction::new(INGEST, 1)]).await.expect("append");
        }
        let windows =
            (minutes as i64 + detector.window.delta().num_minutes() - 1) / detector.every.delta().num_minutes();
        let now = start + TimeDelta::hours(3);
        let only = std::slice::from_ref(detector);
        let began = Instant::now();
        let found =
            detect(&warden.engine, &store, only, &warden.config, now, "bench", &Stage::hidden(), Purpose::Record).await;
        let seconds = began.elapsed().as_secs_f64();
        let found = found.unwrap_or_else(|error| panic!("{}: {error}", detector.name));
        for failure in &found.failures {
            println!("{}", failure.text);
        }
        let stats = found.detectors[&detector.name];
        println!(
            "| {} | {windows} | {:.2} | {} | {seconds:.1} | {} |",
            detector.name,
            stats.seconds / windows as f64,
            stats.findings,
            resident()
        );
    }
}

/// Most memory so far, in MB.
fn resident() -> i64 {
    // SAFETY: zeros are a value of this type, and the call writes nothing else.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    usage.ru_maxrss / 1_024
}

fn rows(table: Table, cells: &[Cell], start: DateTime<Utc>) -> RecordBatch {
    let schema = table.schema().stored();
    let texts = |text: &dyn Fn(Cell) -> String| -> ArrayRef {
        Arc::new(cells.iter().map(|cell| Some(text(*cell))).collect::<StringViewArray>())
    };
    let integers = |number: &dyn Fn(Cell) -> usize| -> ArrayRef {
        Arc::new(cells.iter().map(|cell| number(*cell) as i64).collect::<Int64Array>())
    };
    let instants = |seconds: i64| -> ArrayRef {
        let at = |cell: &Cell| {
            (start + TimeDelta::minutes(cell.minute as i64) + TimeDelta::seconds(seconds)).timestamp_micros()
        };
        Arc::new(TimestampMicrosecondArray::from_iter_values(cells.iter().map(at)).with_timezone("UTC"))
    };
    let columns = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "hour" => texts(&|_| "2026-11-20T20".to_owned()),
            "minute" | "first_seen" => instants(0),
            "last_seen" => instants(59),
            "session_id" => texts(&|cell| format!("{:012x}", cell.session * 0x9e37_79b9)),
            "network" | "ip" => texts(&Cell::network),
            "country" => texts(&|cell| ["DE", "FR", "IT"][cell.place() % 3].to_owned()),
            "asn" => integers(&|cell| 3_000 + (cell.session + cell.place()) % 40),
            "user_agent" => texts(&|cell| format!("Player/{} (device {})", cell.session % 7, cell.place())),
            "device" => texts(&|_| "other".to_owned()),
            "content" => texts(&|cell| format!("film-{}", cell.session % 50)),
            "network_type" => texts(&|_| "isp".to_owned()),
            "bound" => Arc::new(cells.iter().map(|_| Some(true)).collect::<BooleanArray>()),
            "derived" => Arc::new(cells.iter().map(|_| Some(false)).collect::<BooleanArray>()),
            "batch" | "requests" => integers(&|_| 1),
            "segments" => integers(&|cell| if cell.is_shared() { 36 } else { 10 }),
            "segment" => integers(&|cell| cell.minute * 8),
            "manifests" | "bytes" => integers(&|_| 10),
            _ => new_null_array(field.data_type(), cells.len()),
        })
        .collect();
    RecordBatch::try_new(schema, columns).expect("the columns are those of the schema")
}
