//! The table `requests`: log objects streamed into Arrow batches as a query asks for them.

use std::collections::HashSet;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::datasource::TableType;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures::TryStreamExt;
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::config::Logs;
use crate::logs::{self, Batches, LogForm, ObjectReport, ReadContext, ReadError, RequestSink};
use crate::schema::Table;
use crate::source::{self, LogSource, ObjectMeta, SourceError};

/// Batches that wait for their reader, per object.
const BATCHES_AHEAD: usize = 2;

/// A log object and where it is.
#[derive(Clone)]
pub struct LogObject {
    pub source: Arc<dyn LogSource>,
    pub meta: ObjectMeta,
    pub form: Arc<LogForm>,
}

impl LogObject {
    /// Its name in the column `object` and in messages.
    pub fn name(&self) -> String {
        self.source.object_name(&self.meta.key)
    }
}

impl fmt::Debug for LogObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// Why an object gave no rows, or not all.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Later attempts may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// It is not there any more.
    #[error("{0}")]
    Gone(String),
    /// It is there, but not in the version that was listed.
    #[error("{0}")]
    Changed(String),
    /// We may not read it.
    #[error("{0}")]
    Denied(String),
    /// Later attempts fail alike: the object is set aside.
    #[error("{0}")]
    Broken(String),
}

/// Reads one object on a thread of its own; gives the report and the sink, which has its requests.
pub async fn read<S: RequestSink + Send + 'static>(
    object: &LogObject,
    context: &ReadContext,
    mut sink: S,
) -> Result<(ObjectReport, S), ObjectError> {
    let bytes = object.source.open(&object.meta).await.map_err(|error| match error {
        SourceError::Denied { reason, .. } => ObjectError::Denied(reason),
        SourceError::Unavailable { reason, .. } => ObjectError::Unavailable(reason),
        SourceError::Gone { reason, .. } => ObjectError::Gone(reason),
        SourceError::Changed { reason, .. } => ObjectError::Changed(reason),
        SourceError::List { .. } => ObjectError::Unavailable(error.to_string()),
    })?;
    let (name, form, context) = (object.name(), object.form.clone(), context.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let result = logs::read_object(bytes, &name, &form, &context, &mut sink);
        (result, sink)
    });
    let (result, sink) = reading.await.map_err(|error| ObjectError::Broken(format!("the reader failed: {error}")))?;
    Ok((check_size(result, object.meta.size)?, sink))
}

/// Reads one object, with the columns of `schema` through the channel, at most a few batches ahead: memory is bounded by them,
/// whatever the object's size. If the receiver is dropped, the reading stops.
async fn stream(
    object: &LogObject,
    context: &ReadContext,
    schema: SchemaRef,
    batches: mpsc::Sender<RecordBatch>,
) -> Result<ObjectReport, ObjectError> {
    let hand_on = move |batch| match batches.blocking_send(batch) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    Ok(read(object, context, Batches::new(schema, hand_on)).await?.0)
}

/// Fewer or more bytes than listed: the object was replaced, or is still being written. The next listing
/// shows what became of it.
fn check_size(result: Result<ObjectReport, ReadError>, listed: u64) -> Result<ObjectReport, ObjectError> {
    match result {
        Ok(report) if report.size == listed => Ok(report),
        Ok(report) => Err(ObjectError::Changed(format!("{listed} bytes were listed but {} read", report.size))),
        Err(ReadError::Gzip { bytes, source }) if bytes < listed => {
            // The decoder stopped before the end of what was listed: broken in the middle, not cut off.
            Err(ObjectError::Broken(format!("broken gzip in the first {bytes} of {listed} bytes: {source}")))
        }
        Err(error @ ReadError::Store { .. }) => Err(ObjectError::Unavailable(error.to_string())),
        Err(error) => Err(ObjectError::Broken(error.to_string())),
    }
}

/// A place and how far back it is read.
pub struct Place {
    pub source: Arc<dyn LogSource>,
    pub form: Arc<LogForm>,
    /// Objects that can only hold older requests are not read; none: all are.
    pub since: Option<DateTime<Utc>>,
}

impl Place {
    /// One of its objects.
    pub fn object(&self, meta: ObjectMeta) -> LogObject {
        LogObject { source: self.source.clone(), meta, form: self.form.clone() }
    }
}

/// Connects to the places of a config, to be read as far back as each says.
pub async fn places(logs: &[Logs], now: DateTime<Utc>) -> Vec<Place> {
    let mut places = Vec::new();
    for logs in logs {
        let source = source::connect(&logs.location).await;
        let form = Arc::new(logs.form.clone());
        places.push(Place { source, form, since: Some(now - logs.lookback.delta()) });
    }
    places
}

/// The table `requests` over the log objects of some places. They are listed when a query reads them.
pub struct RequestsTable {
    places: Vec<Place>,
    context: ReadContext,
    schema: SchemaRef,
}

impl RequestsTable {
    pub fn new(places: Vec<Place>, context: ReadContext) -> Self {
        RequestsTable { places, context, schema: Table::Requests.schema().public() }
    }

    /// Every object once, also where two places overlap.
    async fn objects(&self) -> Result<Vec<LogObject>, SourceError> {
        let mut objects = Vec::new();
        let mut names = HashSet::new();
        for place in &self.places {
            let metas: Vec<ObjectMeta> = place.source.list(place.since).try_collect().await?;
            objects
                .extend(metas.into_iter().map(|meta| place.object(meta)).filter(|object| names.insert(object.name())));
        }
        Ok(objects)
    }
}

impl fmt::Debug for RequestsTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestsTable").field("places", &self.places.len()).finish()
    }
}

#[async_trait]
impl TableProvider for RequestsTable {
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
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => self.schema.clone(),
        };
        let objects = self.objects().await.map_err(|error| DataFusionError::External(Box::new(error)))?;
        // Objects are dealt out in turn, so that each partition gets its share of every hour.
        let partitions = state.config().target_partitions().clamp(1, objects.len().max(1));
        let streams: Vec<Arc<dyn PartitionStream>> = (0..partitions)
            .map(|partition| {
                Arc::new(ObjectsStream {
                    objects: objects.iter().skip(partition).step_by(partitions).cloned().collect(),
                    context: self.context.clone(),
                    schema: schema.clone(),
                }) as Arc<dyn PartitionStream>
            })
            .collect();
        Ok(Arc::new(StreamingTableExec::try_new(schema, streams, None, [], false, limit)?))
    }
}

/// The objects of one partition, one after the other.
struct ObjectsStream {
    objects: Vec<LogObject>,
    context: ReadContext,
    schema: SchemaRef,
}

impl fmt::Debug for ObjectsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.objects).finish()
    }
}

impl PartitionStream for ObjectsStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(self.schema.clone(), BATCHES_AHEAD);
        let (objects, context, schema) = (self.objects.clone(), self.context.clone(), self.schema.clone());
        let out = builder.tx();
        let span = tracing::Span::current();
        builder.spawn(
            async move {
                for object in &objects {
                    let (sender, mut batches) = mpsc::channel(BATCHES_AHEAD);
                    let out = out.clone();
                    let forward = async move {
                        while let Some(batch) = batches.recv().await {
                            if out.send(Ok(batch)).await.is_err() {
                                return false;
                            }
                        }
                        true
                    };
                    let (wanted, result) = tokio::join!(forward, stream(object, &context, schema.clone(), sender));
                    if !wanted {
                        return Ok(());
                    }
                    // A query over many objects is not to fail for one that ingestion would set aside.
                    if let Err(error) = result {
                        tracing::warn!("{} is left out, in whole or from some line on: {error}", object.name());
                    }
                }
                Ok(())
            }
            .instrument(span),
        );
        builder.build()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::physical_plan::ExecutionPlanProperties;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::geo::Geo;
    use crate::privacy::Disguise;
    use crate::source::FolderSource;

    /// What a query does not need is not built: the scan itself has only the wanted columns.
    #[tokio::test]
    async fn the_projection_reaches_the_reader() {
        let folder = tempfile::tempdir().unwrap();
        let text = "#Fields: date time c-ip cs-uri-stem sc-status\n2026-11-20\t19:00:01\t198.18.0.1\t/a.ts\t200\n";
        std::fs::write(folder.path().join("a.log"), text).unwrap();
        let context = ReadContext::new([].into(), Arc::new(Geo::default()), [403].into(), Disguise::Keep);
        let source = Arc::new(FolderSource::new(folder.path().to_owned()));
        let place = Place { source, form: Arc::default(), since: None };
        let session = SessionContext::new();
        session.register_table("requests", Arc::new(RequestsTable::new(vec![place], context))).unwrap();

        let frame = session.sql("SELECT MAX(time) AS time FROM requests WHERE status = 200").await.unwrap();
        let mut plan = frame.clone().create_physical_plan().await.unwrap();
        while let Some(child) = plan.clone().children().first() {
            plan = Arc::clone(child);
        }
        let names: Vec<String> = plan.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["time", "status"]);
        assert_eq!(plan.output_partitioning().partition_count(), 1, "no more partitions than objects");
        assert_eq!(frame.collect().await.unwrap()[0].num_rows(), 1);

        let count = session.sql("SELECT COUNT(*) FROM requests").await.unwrap().collect().await.unwrap();
        assert_eq!(crate::rows::to_json(&count).unwrap()[0].values().next().unwrap(), 1);
    }
}
