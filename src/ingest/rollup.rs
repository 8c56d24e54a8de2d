//! The roll-up of requests to rows of the stored tables: the SQL of `queries/rollup*.sql`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::Int64Array;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;

use crate::engine::{Engine, EngineError, Sql, prepare, query_error, sql};
use crate::logs::{ObjectReport, ReadContext};
use crate::requests::{LogObject, ObjectError, read_in_parts};
use crate::rows;
use crate::schema::Table;

/// Each stored minute table and its roll-up, in the order in which a batch is committed.
const ROLLUPS: [(Table, Sql); 4] = [
    (Table::Refusals, sql!("rollup_refusals.sql")),
    (Table::Deliveries, sql!("rollup_deliveries.sql")),
    (Table::Credentials, sql!("rollup_credentials.sql")),
    (Table::Activity, sql!("rollup.sql")),
];

/// How often an object is tried again that cannot be read for the moment, before it is left to the next run. The AWS client
/// has its own attempts at each request; these are for answers that break off.
const RETRIES: u32 = 3;

/// Half a second, doubling, with up to as much again by chance.
fn pause(attempt: u32, chance: u128) -> Duration {
    let base = 500u64 << attempt;
    Duration::from_millis(base + (chance % u128::from(base)) as u64)
}

/// The roll-up, and the columns of `requests` that it needs: no others are built.
pub struct Rollup<'a> {
    engine: &'a Engine,
    schema: SchemaRef,
}

/// Rolled-up rows, table by table as in [`ROLLUPS`].
#[derive(Default)]
pub struct Rolled([Vec<RecordBatch>; ROLLUPS.len()]);

/// An object that was read to its end: its report, the rows that are still to be rolled up (together with
/// those of other objects), and what was rolled up of a very large one. Or why it was not.
pub type Outcome = Result<(ObjectReport, Vec<RecordBatch>, Rolled), ObjectError>;

impl<'a> Rollup<'a> {
    pub async fn new(engine: &'a Engine) -> Result<Self, EngineError> {
        let requests = Table::Requests.schema().public();
        let mut needed = BTreeSet::new();
        for (_, sql) in ROLLUPS {
            let session = engine.session();
            let empty = MemTable::try_new(requests.clone(), vec![vec![]]).map_err(|error| query_error(sql, error))?;
            session.register_table(Table::Requests.name(), Arc::new(empty)).map_err(|error| query_error(sql, error))?;
            let plan =
                prepare(&session, sql, vec![]).await?.into_optimized_plan().map_err(|error| query_error(sql, error))?;
            plan.apply(|node| {
                if let LogicalPlan::TableScan(scan) = node {
                    needed.extend(scan.projection.iter().flatten().copied());
                    for filter in &scan.filters {
                        needed.extend(
                            filter.column_refs().iter().filter_map(|column| requests.index_of(&column.name).ok()),
                        );
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            })
            .map_err(|error| query_error(sql, error))?;
        }
        let columns: Vec<usize> = needed.into_iter().collect();
        let schema = requests.project(&columns).expect("the indexes are those of its fields");
        Ok(Rollup { engine, schema: Arc::new(schema) })
    }

    /// Reads an object, rolling it up in parts of `part_bytes` where it has more.
    ///
    /// Where the parts are cut depends on the object alone, so it contributes the same rows whatever
    /// objects are read beside it. What fails for the moment is tried again, from the beginning.
    pub async fn read(
        &self,
        object: &LogObject,
        context: &ReadContext,
        part_bytes: usize,
    ) -> Result<Outcome, EngineError> {
        let mut attempt = 0;
        loop {
            let outcome = self.try_read(object, context, part_bytes).await?;
            match outcome {
                Err(ObjectError::Unavailable(reason)) if attempt < RETRIES => {
                    let pause = pause(attempt, uuid::Uuid::new_v4().as_u128());
                    tracing::warn!("{object:?}: {reason}; trying again in {pause:.1?}");
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                }
                outcome => return Ok(outcome),
            }
        }
    }

    async fn try_read(
        &self,
        object: &LogObject,
        context: &ReadContext,
        part_bytes: usize,
    ) -> Result<Outcome, EngineError> {
        let rolled = Mutex::new(Rolled::default());
        let part = |batches| async {
            let part = self.roll(batches).await?;
            rolled.lock().expect("not poisoned").extend(part);
            Ok::<(), EngineError>(())
        };
        let outcome = read_in_parts(object, context, self.schema.clone(), part_bytes, part).await?;
        Ok(outcome.map(|(report, staged)| (report, staged, rolled.into_inner().expect("not poisoned"))))
    }

    /// Rolls up requests of whole objects, or of one part of one object.
    pub async fn roll(&self, requests: Vec<RecordBatch>) -> Result<Rolled, EngineError> {
        let session = self.engine.session();
        let (_, first) = ROLLUPS[0];
        let table =
            MemTable::try_new(self.schema.clone(), vec![requests]).map_err(|error| query_error(first, error))?;
        session.register_table(Table::Requests.name(), Arc::new(table)).map_err(|error| query_error(first, error))?;
        let mut rolled = Rolled::default();
        for (place, (table, sql)) in ROLLUPS.into_iter().enumerate() {
            let frame = prepare(&session, sql, vec![]).await?;
            for batch in frame.collect().await.map_err(|error| query_error(sql, error))? {
                if batch.num_rows() > 0 {
                    let batch = rows::conform(&batch, &table.schema().stored())
                        .map_err(|message| EngineError::Rows { file: sql.file, message })?;
                    rolled.0[place].push(batch);
                }
            }
        }
        Ok(rolled)
    }
}

impl Rolled {
    pub fn extend(&mut self, other: Rolled) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            mine.extend(theirs);
        }
    }

    pub fn rows(&self) -> usize {
        self.0.iter().flatten().map(RecordBatch::num_rows).sum()
    }

    /// The rows with their batch number, table by table, `activity` last.
    pub fn with_batch(self, batch: i64) -> Result<Vec<(Table, Vec<RecordBatch>)>, String> {
        let mut numbered = Vec::new();
        for ((table, _), batches) in ROLLUPS.into_iter().zip(self.0) {
            let batches: Result<Vec<RecordBatch>, String> =
                batches.into_iter().map(|rows| set_batch(rows, batch)).collect();
            numbered.push((table, batches?));
        }
        Ok(numbered)
    }
}

fn set_batch(rows: RecordBatch, batch: i64) -> Result<RecordBatch, String> {
    let place = rows.schema().index_of("batch").map_err(|error| error.to_string())?;
    let mut columns = rows.columns().to_vec();
    columns[place] = Arc::new(Int64Array::from_value(batch, rows.num_rows()));
    RecordBatch::try_new(rows.schema(), columns).map_err(|error| error.to_string())
}
