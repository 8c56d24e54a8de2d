//! What a pass costs over a ledger of many objects, with nothing new and with three new ones: `cargo bench --bench ledger -- 500000`.
//!
//! Makes a state whose ledger holds that many objects, a year of them, and runs the program; prints
//! seconds and peak memory of the pass, beside those over an empty ledger.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, StringViewArray, TimestampMicrosecondArray, new_null_array};
use arrow::record_batch::RecordBatch;
use streamwarden::schema::Table;
use streamwarden::store::{DeltaStore, Root, StateLock, Store, Transaction};

/// The end of the fixtures' evening.
const NOW: &str = "2026-11-20T21:00:00Z";

/// Objects that one batch of the ledger has.
const BATCH: usize = 10_000;

#[tokio::main]
async fn main() {
    let objects = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(500_000);
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("logs")).expect("a folder for logs");
    let config = "[state]\nlocation = \"state\"\n[[logs]]\nlocation = \"logs\"\n[[session]]\nscheme = \"secure-media-delivery\"\n";
    std::fs::write(folder.path().join("streamwarden.toml"), config).expect("write the config");
    pass(folder.path());
    report("an empty ledger", pass(folder.path()));
    fill(&folder.path().join("state"), objects).await;
    report(&format!("{objects} objects, first pass"), pass(folder.path()));
    report(&format!("{objects} objects, next pass"), pass(folder.path()));
    arrive(folder.path());
    report(&format!("{objects} objects, and three new ones"), pass(folder.path()));
}

/// Three objects of the fixtures, from the end of their evening.
fn arrive(folder: &Path) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/standard");
    let objects = std::fs::read_dir(fixtures).expect("the fixtures");
    let mut objects: Vec<_> = objects.map(|object| object.expect("an object").path()).collect();
    objects.sort();
    for object in objects.iter().rev().take(3) {
        let name = object.file_name().expect("files have names");
        std::fs::copy(object, folder.join("logs").join(name)).expect("copy an object");
    }
}

fn report(what: &str, (seconds, kilobytes): (f64, i64)) {
    println!("{what}: {seconds:.2} s, {} MB", kilobytes / 1_024);
}

/// Runs the program once; seconds and peak memory.
fn pass(folder: &Path) -> (f64, i64) {
    let started = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamwarden"));
    let child = command
        .arg("run")
        .env("STREAMWARDEN_NOW", NOW)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let id = child.expect("start the program").id();
    let (mut status, mut usage) = (0, unsafe { std::mem::zeroed::<libc::rusage>() });
    // SAFETY: the child is ours and nobody else waits for it; both places are valid for writing.
    unsafe { libc::wait4(id as i32, &mut status, 0, &mut usage) };
    let status = std::process::ExitStatus::from_raw(status);
    assert!(status.success(), "{status}");
    (started.elapsed().as_secs_f64(), usage.ru_maxrss)
}

/// Appends objects to the ledger as past runs would have.
async fn fill(state: &Path, objects: usize) {
    let root = Root::Folder(state.to_owned());
    let lock = StateLock::acquire(&root, false, Duration::from_secs(60)).await.expect("the lock");
    let store = DeltaStore::open_or_create(&root, &lock).await.expect("the state");
    let schema = Table::Objects.schema().stored();
    for batch in 0..objects.div_ceil(BATCH) {
        let numbers: Vec<usize> = (batch * BATCH..((batch + 1) * BATCH).min(objects)).collect();
        let texts = |text: &dyn Fn(usize) -> String| -> ArrayRef {
            Arc::new(numbers.iter().map(|number| Some(text(*number))).collect::<StringViewArray>())
        };
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .map(|field| match field.name().as_str() {
                "location" => texts(&|_| "s3://logs/cdn".to_owned()),
                "key" => texts(&|n| {
                    format!(
                        "EDFDVBD6EXAMPLE.2025-{:02}-{:02}-{:02}.{n:08x}.gz",
                        n / 41_667 % 12 + 1,
                        n / 1_500 % 28 + 1,
                        n % 24
                    )
                }),
                "etag" => texts(&|n| format!("\"{n:032x}\"")),
                "digest" => texts(&|n| format!("{:064x}", n * 7)),
                "status" => texts(&|_| "ingested".to_owned()),
                "batch" => Arc::new(Int64Array::from_value(batch as i64 + 1, numbers.len())),
                "arrived_at" | "ingested_at" | "last_time" => Arc::new(
                    TimestampMicrosecondArray::from_value(1_763_000_000_000_000, numbers.len()).with_timezone("UTC"),
                ),
                _ => new_null_array(field.data_type(), numbers.len()),
            })
            .collect();
        let rows = RecordBatch::try_new(schema.clone(), columns).expect("the columns are those of the schema");
        store.append(Table::Objects, vec![rows], &[]).await.expect("append to the ledger");
    }
    // The batches are complete: `activity` has them, too.
    let last = Transaction::new("ingest", objects.div_ceil(BATCH) as i64);
    store.append(Table::Activity, vec![], &[last]).await.expect("append to activity");
    lock.release().await;
}
