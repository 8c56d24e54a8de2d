//! Any bytes as a log object, under every format: no panic, memory bounded, every row in the report is in a batch.

#![no_main]

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use streamwarden::config::LogFormat;
use streamwarden::geo::Geo;
use streamwarden::logs::fields::{Layout, REALTIME_COLUMNS};
use streamwarden::logs::{Batches, LogForm, ReadContext, read_object};
use streamwarden::privacy::Disguise;
use streamwarden::schema::Table;
use streamwarden::session::Scheme;

static CONTEXT: LazyLock<ReadContext> = LazyLock::new(|| {
    ReadContext::new(Scheme::without_keys().into(), Arc::new(Geo::default()), [401, 403].into(), Disguise::Keep)
});

fuzz_target!(|input: (u8, &[u8])| {
    let (form, bytes) = input;
    let format = [
        LogFormat::Auto,
        LogFormat::Standard,
        LogFormat::StandardJson,
        LogFormat::Parquet,
        LogFormat::Realtime,
    ][usize::from(form) % 5];
    let realtime = (form >= 128).then(|| Layout::new(REALTIME_COLUMNS.iter().map(String::as_str)).unwrap());
    let form = LogForm { format, realtime };
    let mut rows = 0;
    let sink = |batch: arrow::record_batch::RecordBatch| {
        rows += batch.num_rows() as u64;
        ControlFlow::Continue(())
    };
    let mut sink = Batches::new(Table::Requests.schema().public(), sink);
    if let Ok(report) = read_object(bytes, "fuzzed", &form, &CONTEXT, &mut sink) {
        drop(sink);
        assert_eq!(report.counts.rows, rows);
        assert_eq!(report.size, bytes.len() as u64);
    }
});
