//! The parts of reading and detecting, on the logs of the demo: `cargo bench --bench parts`.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use streamwarden::config::Config;
use streamwarden::detect::{Purpose, detect};
use streamwarden::ingest::INGEST;
use streamwarden::ingest::tally::Tally;
use streamwarden::logs::fields::FieldSet;
use streamwarden::logs::gunzip::unpack;
use streamwarden::logs::{LogForm, LoggedRequest, RequestSink, read_object};
use streamwarden::pass::Warden;
use streamwarden::progress::Stage;
use streamwarden::schema::Table;
use streamwarden::store::{MemoryStore, Store, Transaction};

/// Looks at requests and keeps nothing.
#[derive(Default)]
struct Counter(u64);

impl RequestSink for Counter {
    fn needed_fields(&self) -> FieldSet {
        FieldSet::default()
    }

    fn take(&mut self, request: &LoggedRequest<'_>) {
        self.0 += u64::from(request.accepted);
    }
}

fn parts(criterion: &mut Criterion) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = Config::load(&root.join("fixtures/demo.toml")).expect("the config of the demo");
    let now = config.clock().now();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let warden = runtime.block_on(Warden::new(config)).expect("the demo can be run");
    let objects = std::fs::read_dir(root.join("fixtures/standard")).expect("the logs of the demo");
    let packed: Vec<Vec<u8>> =
        objects.map(|object| std::fs::read(object.expect("an entry").path()).expect("an object")).collect();
    let mut buffer = Vec::new();
    let mut unpack_all =
        || -> usize { packed.iter().map(|object| unpack(object, usize::MAX >> 1, &mut buffer).expect("gzip")).sum() };
    let unpacked = unpack_all();
    let form = LogForm::default();
    let read = |sink: &mut Tally| {
        for object in &packed {
            read_object(&object[..], "object", &form, &warden.context, sink).expect("a log");
        }
    };

    let mut group = criterion.benchmark_group("reading");
    group.throughput(Throughput::Bytes(unpacked as u64));
    group.bench_function("unpack", |bencher| {
        bencher.iter(&mut unpack_all);
    });
    group.bench_function("read lines", |bencher| {
        bencher.iter(|| {
            let mut counter = Counter::default();
            for object in &packed {
                read_object(&object[..], "object", &form, &warden.context, &mut counter).expect("a log");
            }
            counter.0
        });
    });
    group.bench_function("read and roll up", |bencher| {
        bencher.iter(|| {
            let mut tally = Tally::default();
            read(&mut tally);
            tally.rows()
        });
    });
    group.bench_function("read, roll up and make rows", |bencher| {
        bencher.iter(|| {
            let mut tally = Tally::default();
            read(&mut tally);
            black_box(tally.into_rows(1))
        });
    });
    group.finish();

    let mut tally = Tally::default();
    read(&mut tally);
    let rows = Arc::new(tally.into_rows(1));
    let store = async || {
        let store = MemoryStore::default();
        for (table, rows) in rows.iter() {
            store.append(*table, rows.clone(), &[Transaction::new(INGEST, 1)]).await.expect("append");
        }
        store.append(Table::Activity, vec![], &[Transaction::new(INGEST, 1)]).await.expect("append");
        store
    };
    let mut group = criterion.benchmark_group("detecting");
    group.sample_size(10);
    let all = [("all detectors", &warden.detectors[..])];
    let each = warden.detectors.iter().map(|detector| (detector.name.as_str(), std::slice::from_ref(detector)));
    for (name, detectors) in all.into_iter().chain(each) {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || runtime.block_on(store()),
                |store| {
                    let (stage, config) = (Stage::hidden(), &warden.config);
                    runtime.block_on(detect(
                        &warden.engine,
                        &store,
                        detectors,
                        config,
                        now,
                        "bench",
                        &stage,
                        Purpose::Record,
                    ))
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, parts);
criterion_main!(benches);
