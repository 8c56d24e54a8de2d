//! What a table holds, read when it is first asked for and then kept in memory.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::datasource::{MemTable, TableType};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::{ExecutionPlan, collect};
use tokio::sync::OnceCell;

use crate::rows::conform;

/// One version of a table.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Where it is read from.
    source: Arc<dyn TableProvider>,
    rows: Arc<OnceCell<Vec<RecordBatch>>>,
}

impl Contents {
    /// Nothing is read yet.
    pub fn of(source: Arc<dyn TableProvider>) -> Contents {
        Contents { source, rows: Arc::default() }
    }

    /// What the next version holds, with the rows that are new in it; none where this one was not read.
    pub fn with(self, new: &[RecordBatch]) -> Option<Contents> {
        let mut rows = self.rows.get()?.clone();
        for batch in new {
            rows.push(conform(batch, &self.source.schema()).ok()?);
        }
        Some(Contents { source: self.source, rows: Arc::new(OnceCell::new_with(Some(rows))) })
    }
}

#[async_trait]
impl TableProvider for Contents {
    fn schema(&self) -> SchemaRef {
        self.source.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let read = async || {
            let plan = self.source.scan(state, None, &[], None).await?;
            collect(plan, state.task_ctx()).await
        };
        let rows = self.rows.get_or_try_init(read).await?;
        MemTable::try_new(self.schema(), vec![rows.clone()])?.scan(state, projection, filters, limit).await
    }
}
