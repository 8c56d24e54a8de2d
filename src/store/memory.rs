//! Tables in memory, over nothing (`replay`) or over a state that is not to be changed (`run --dry-run`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;
use datafusion::datasource::{MemTable, ViewTable, provider_as_source};
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::prelude::SessionContext;

use super::{Store, StoreError, Transaction};
use crate::schema::Table;

/// Appends are kept here and nowhere else.
#[derive(Default)]
pub struct MemoryStore {
    base: Option<Arc<dyn Store>>,
    appended: Mutex<Appended>,
}

#[derive(Default)]
struct Appended {
    rows: HashMap<Table, Vec<RecordBatch>>,
    transactions: HashMap<(Table, String), i64>,
}

impl MemoryStore {
    /// What is read is `base` and what was appended here.
    pub fn over(base: Arc<dyn Store>) -> Self {
        MemoryStore { base: Some(base), appended: Mutex::default() }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn transaction(&self, table: Table, app: &str) -> Result<Option<i64>, StoreError> {
        let known = self.appended.lock().expect("not poisoned").transactions.get(&(table, app.to_owned())).copied();
        match (known, &self.base) {
            (None, Some(base)) => base.transaction(table, app).await,
            (known, _) => Ok(known),
        }
    }

    async fn append(
        &self,
        table: Table,
        rows: Vec<RecordBatch>,
        transactions: &[Transaction],
    ) -> Result<(), StoreError> {
        let mut appended = self.appended.lock().expect("not poisoned");
        appended.rows.entry(table).or_default().extend(rows);
        for transaction in transactions {
            appended.transactions.insert((table, transaction.app.clone()), transaction.version);
        }
        Ok(())
    }

    async fn provider(&self, table: Table, session: &SessionContext) -> Result<Arc<dyn TableProvider>, StoreError> {
        let engine = |source: DataFusionError| StoreError::Engine { table: table.name(), source: Box::new(source) };
        let rows = self.appended.lock().expect("not poisoned").rows.get(&table).cloned().unwrap_or_default();
        let memory: Arc<dyn TableProvider> =
            Arc::new(MemTable::try_new(table.schema().stored(), vec![rows]).map_err(engine)?);
        let Some(base) = &self.base else {
            return Ok(memory);
        };
        let base = base.provider(table, session).await?;
        let scan = |name: &str, provider| LogicalPlanBuilder::scan(name, provider_as_source(provider), None);
        let union = scan("base", base)
            .and_then(|base| base.union_by_name(scan("appended", memory)?.build()?))
            .and_then(LogicalPlanBuilder::build)
            .map_err(engine)?;
        Ok(Arc::new(ViewTable::new(union, None)))
    }
}
