//! A SELECT that is planned once and run on the rows of one window after the other: planning costs more than running it on a
//! small window.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::TableType;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, collect};
use datafusion::prelude::SessionContext;
use futures::stream;
use tokio::sync::Mutex;

use crate::engine::Engine;

/// The rows of a window: of a table, shared by all statements that see the same.
pub type Rows = Arc<Vec<RecordBatch>>;

/// A planned SELECT and the tables in it whose rows change.
pub struct Statement {
    plan: Arc<dyn ExecutionPlan>,
    /// Of each table the columns that it reads, by their names.
    columns: HashMap<&'static str, BTreeSet<String>>,
    context: Arc<TaskContext>,
    /// Whoever runs it, where its runs share something: one at a time.
    turn: Option<Arc<Mutex<()>>>,
}

/// What a statement is planned from.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    pub sql: String,
    pub parameters: Vec<(String, ScalarValue)>,
    pub lists: BTreeMap<String, Vec<String>>,
    /// The tables whose rows change.
    pub tables: Vec<(&'static str, SchemaRef)>,
}

/// The last statement that was planned somewhere: it serves again wherever it would be the same.
#[derive(Clone, Default)]
pub struct Planned(Arc<Mutex<Option<Known>>>);

type Known = (Text, Arc<Statement>);

impl Planned {
    /// The statement, planned if it is another one. Whoever asks while it is planned waits for it.
    pub async fn get_or_plan(
        &self,
        text: Text,
        engine: &Engine,
        plan: impl AsyncFnOnce() -> Result<Statement, DataFusionError>,
    ) -> Result<Arc<Statement>, DataFusionError> {
        let mut planned = self.0.lock().await;
        if let Some((known, statement)) = &*planned
            && *known == text
            && engine.is_of(&statement.context.runtime_env())
        {
            return Ok(statement.clone());
        }
        let statement = Arc::new(plan().await?);
        *planned = Some((text, statement.clone()));
        Ok(statement)
    }
}

impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planned").finish_non_exhaustive()
    }
}

/// The rows of a run, by table.
struct RunRows(HashMap<&'static str, Rows>);

impl Statement {
    /// Plans what `select` makes of a session, in which there are the tables with these names and schemas.
    pub async fn new(
        session: SessionContext,
        tables: Vec<(&'static str, SchemaRef)>,
        select: impl AsyncFnOnce(&SessionContext) -> Result<DataFrame, DataFusionError>,
    ) -> Result<Statement, DataFusionError> {
        let scanned = Scanned::default();
        for (name, schema) in tables {
            let table = WindowTable { name, schema, scanned: scanned.clone() };
            session.register_table(name, Arc::new(table))?;
        }
        let plan = select(&session).await?.create_physical_plan().await?;
        let turn = shares_results(&plan).then(Arc::default);
        let columns = std::mem::take(&mut *scanned.lock().expect("not poisoned"));
        Ok(Statement { plan, columns, context: session.task_ctx(), turn })
    }

    /// The columns of a table that it reads: its rows may lack the others.
    pub fn columns(&self, table: &str) -> impl Iterator<Item = &str> {
        self.columns.get(table).into_iter().flatten().map(String::as_str)
    }

    /// Runs it on the rows of a window; a table that is not named has none. It may be run several times at once; a run that is
    /// dropped ends.
    pub async fn run(&self, rows: &[(&'static str, Rows)]) -> Result<Vec<RecordBatch>, DataFusionError> {
        let rows = RunRows(rows.iter().cloned().collect());
        let config = self.context.session_config().clone().with_extension(Arc::new(rows));
        // Functions are in the plan already.
        let (id, runtime) = (self.context.session_id(), self.context.runtime_env());
        let context =
            TaskContext::new(None, id, config, HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new(), runtime);
        let turn = match &self.turn {
            Some(turn) => Some(turn.clone().lock_owned().await),
            None => None,
        };
        // What a plan's operators have gathered belongs to one run.
        let plan = reset_plan_states(self.plan.clone())?;
        let running = SpawnedTask::spawn(async move {
            let batches = collect(plan, Arc::new(context)).await;
            drop(turn);
            batches
        });
        running.join().await.map_err(|error| DataFusionError::External(Box::new(error)))?
    }
}

/// DataFusion 55 puts the result of a subquery that gives one value where all copies of a plan find it, and reset as well: beside
/// another run a window would be judged by that one's value.
fn shares_results(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.name() == "ScalarSubqueryExec" || plan.children().into_iter().any(shares_results)
}

/// What a plan reads of each table.
type Scanned = Arc<std::sync::Mutex<HashMap<&'static str, BTreeSet<String>>>>;

/// A table whose rows are those of the run at hand.
#[derive(Debug)]
struct WindowTable {
    name: &'static str,
    schema: SchemaRef,
    scanned: Scanned,
}

#[async_trait]
impl TableProvider for WindowTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let of = state.config().target_partitions().max(1);
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => self.schema.clone(),
        };
        let names = schema.fields().iter().map(|field| field.name().clone());
        self.scanned.lock().expect("not poisoned").entry(self.name).or_default().extend(names);
        let share = |number| Share { name: self.name, schema: schema.clone(), number, of };
        let streams = (0..of).map(|number| Arc::new(share(number)) as Arc<dyn PartitionStream>).collect();
        Ok(Arc::new(StreamingTableExec::try_new(schema.clone(), streams, None, [], false, limit)?))
    }
}

/// One partition's share of the batches.
#[derive(Debug)]
struct Share {
    name: &'static str,
    schema: SchemaRef,
    number: usize,
    of: usize,
}

impl PartitionStream for Share {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = context.session_config().get_extension::<RunRows>();
        let rows = rows.and_then(|rows| rows.0.get(self.name).cloned()).unwrap_or_default();
        let share: Vec<_> = rows.iter().skip(self.number).step_by(self.of).map(|rows| self.wanted(rows)).collect();
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream::iter(share)))
    }
}

impl Share {
    /// The columns that are read.
    fn wanted(&self, rows: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let columns: Result<Vec<usize>, _> =
            self.schema.fields().iter().map(|field| rows.schema_ref().index_of(field.name())).collect();
        Ok(rows.project(&columns?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::select;
    use crate::rows;
    use crate::schema::Table;

    /// Joins, aggregates and subqueries keep state; a second run must not see the first one's.
    #[tokio::test]
    async fn a_run_sees_its_own_rows_only() {
        let schema = Table::Refusals.schema().public();
        let row = |session: &str, requests: i64| serde_json::json!({"minute": "2026-11-20T19:00:00Z", "session_id": session, "requests": requests, "networks": 1});
        let of = |rows: &[serde_json::Value]| Arc::new(vec![rows::encode(schema.clone(), rows).unwrap()]);
        let text = "WITH sums AS (SELECT session_id, SUM(requests) AS requests FROM refusals GROUP BY session_id), \
                    middle AS (SELECT MEDIAN(requests) AS requests FROM sums) \
                    SELECT refusals.session_id, SUM(refusals.requests) AS n FROM refusals INNER JOIN sums ON sums.session_id = refusals.session_id \
                    CROSS JOIN middle WHERE sums.requests >= middle.requests \
                    AND refusals.session_id IN (SELECT session_id FROM refusals WHERE requests > 1) GROUP BY refusals.session_id ORDER BY n";
        let engine = Engine::new(&Default::default()).unwrap();
        let tables = vec![("refusals", schema.clone())];
        let statement =
            Statement::new(engine.session(), tables, async |session| select(session, text).await).await.unwrap();
        let run = async |rows: &[serde_json::Value]| {
            let batches = statement.run(&[("refusals", of(rows))]).await.unwrap();
            rows::to_json(&batches)
                .unwrap()
                .iter()
                .map(|row| (row["session_id"].to_string(), row["n"].as_i64().unwrap()))
                .collect::<Vec<_>>()
        };
        let first = run(&[row("a", 5), row("a", 2), row("b", 9), row("c", 1)]).await;
        assert_eq!(first, [("\"a\"".to_owned(), 7), ("\"b\"".to_owned(), 9)]);
        assert_eq!(run(&[row("d", 3)]).await, [("\"d\"".to_owned(), 3)]);
        assert_eq!(statement.run(&[]).await.unwrap().iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
        assert_eq!(run(&[row("a", 5), row("a", 2), row("b", 9), row("c", 1)]).await, first);
    }

    /// A window is judged by its own values, whatever runs beside it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn runs_beside_each_other_share_nothing() {
        let schema = Table::Refusals.schema().public();
        let batch = |from: i64| {
            let row = |n: i64| serde_json::json!({"minute": "2026-11-20T19:00:00Z", "session_id": format!("s{n}"), "requests": n, "networks": 1});
            rows::encode(schema.clone(), &(from..from + 100).map(row).collect::<Vec<_>>()).unwrap()
        };
        let of = |start: i64| -> Rows { Arc::new((0..40).map(|n| batch(start + n * 100)).collect()) };
        let text =
            "SELECT session_id, requests AS score FROM refusals WHERE requests > (SELECT AVG(requests) FROM refusals)";
        let engine = Engine::new(&Default::default()).unwrap();
        let tables = vec![("refusals", schema.clone())];
        let session = engine.session_of_one_thread();
        let statement = Statement::new(session, tables, async |session| select(session, text).await).await.unwrap();
        let found = async |rows: &Rows| {
            let batches = statement.run(&[("refusals", rows.clone())]).await.unwrap();
            batches.iter().map(RecordBatch::num_rows).sum::<usize>()
        };
        let (low, high) = (of(0), of(1_000_000));
        for _ in 0..30 {
            let both = tokio::join!(found(&low), found(&high), found(&low), found(&high));
            assert_eq!(both, (2_000, 2_000, 2_000, 2_000));
        }
    }
}
