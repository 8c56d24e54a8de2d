//! The table schemas of `schemas/`, as Arrow schemas.
//!
//! The files are the source: nothing else in the program lists the columns of a table.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::Deserialize;

/// A table that people can query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Requests,
    Activity,
    Refusals,
    Deliveries,
    Credentials,
    Findings,
    Revocations,
    ActiveRevocations,
    Enforcement,
    Syncs,
    Notifications,
    Objects,
    Runs,
}

impl Table {
    pub const ALL: [Table; 13] = [
        Table::Requests,
        Table::Activity,
        Table::Refusals,
        Table::Deliveries,
        Table::Credentials,
        Table::Findings,
        Table::Revocations,
        Table::ActiveRevocations,
        Table::Enforcement,
        Table::Syncs,
        Table::Notifications,
        Table::Objects,
        Table::Runs,
    ];

    /// The tables that are kept in the state, as Delta tables.
    pub const STORED: [Table; 11] = [
        Table::Activity,
        Table::Refusals,
        Table::Deliveries,
        Table::Credentials,
        Table::Findings,
        Table::Revocations,
        Table::Enforcement,
        Table::Syncs,
        Table::Notifications,
        Table::Objects,
        Table::Runs,
    ];

    /// Its name in SQL, and of its folder in the state.
    pub fn name(self) -> &'static str {
        match self {
            Table::Requests => "requests",
            Table::Activity => "activity",
            Table::Refusals => "refusals",
            Table::Deliveries => "deliveries",
            Table::Credentials => "credentials",
            Table::Findings => "findings",
            Table::Revocations => "revocations",
            Table::ActiveRevocations => "active_revocations",
            Table::Enforcement => "enforcement",
            Table::Syncs => "syncs",
            Table::Notifications => "notifications",
            Table::Objects => "objects",
            Table::Runs => "runs",
        }
    }

    /// Its description in `schemas/`.
    pub fn schema(self) -> &'static TableSchema {
        &SCHEMAS[Table::ALL.iter().position(|table| *table == self).expect("ALL holds every table")]
    }
}

/// One file of `schemas/`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSchema {
    pub description: String,
    /// The column by which the Delta table is partitioned.
    #[serde(default)]
    pub partition_by: Option<String>,
    #[serde(rename = "column")]
    pub columns: Vec<Column>,
}

/// A column of a table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: ColumnType,
    #[serde(default)]
    pub nullable: bool,
    #[serde(default)]
    pub role: Role,
    pub doc: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    Timestamp,
    Text,
    Int,
    Float,
    Bool,
}

/// What a column is for; `schemas/README.md` explains each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Key,
    Sum,
    Min,
    Max,
    And,
    Or,
    #[default]
    Value,
    Storage,
}

impl ColumnType {
    pub fn arrow(self) -> DataType {
        match self {
            ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            // Texts that are short, or the same in many rows, take less room than as `Utf8`; Delta's scans give them like this.
            ColumnType::Text => DataType::Utf8View,
            ColumnType::Int => DataType::Int64,
            ColumnType::Float => DataType::Float64,
            ColumnType::Bool => DataType::Boolean,
        }
    }
}

impl TableSchema {
    /// Every column, as the Delta table holds them. All may be null there: Delta's own checks are not what
    /// keeps a column filled, and a later version may add columns.
    pub fn stored(&self) -> SchemaRef {
        self.arrow(|_| true, true)
    }

    /// The columns of the public table.
    pub fn public(&self) -> SchemaRef {
        self.arrow(|column| column.role != Role::Storage, false)
    }

    fn arrow(&self, keep: impl Fn(&Column) -> bool, all_nullable: bool) -> SchemaRef {
        let fields: Vec<Field> = self
            .columns
            .iter()
            .filter(|column| keep(column))
            .map(|column| Field::new(&column.name, column.kind.arrow(), all_nullable || column.nullable))
            .collect();
        Arc::new(Schema::new(fields))
    }
}

static SCHEMAS: LazyLock<Vec<TableSchema>> = LazyLock::new(|| {
    const SOURCES: [(&str, &str); 13] = [
        ("requests", include_str!("../schemas/requests.toml")),
        ("activity", include_str!("../schemas/activity.toml")),
        ("refusals", include_str!("../schemas/refusals.toml")),
        ("deliveries", include_str!("../schemas/deliveries.toml")),
        ("credentials", include_str!("../schemas/credentials.toml")),
        ("findings", include_str!("../schemas/findings.toml")),
        ("revocations", include_str!("../schemas/revocations.toml")),
        ("active_revocations", include_str!("../schemas/active_revocations.toml")),
        ("enforcement", include_str!("../schemas/enforcement.toml")),
        ("syncs", include_str!("../schemas/syncs.toml")),
        ("notifications", include_str!("../schemas/notifications.toml")),
        ("objects", include_str!("../schemas/objects.toml")),
        ("runs", include_str!("../schemas/runs.toml")),
    ];
    SOURCES
        .iter()
        .map(|(name, text)| toml::from_str(text).unwrap_or_else(|error| panic!("schemas/{name}.toml: {error}")))
        .collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_file_reads_and_documents_each_column() {
        for table in Table::ALL {
            let schema = table.schema();
            assert!(!schema.description.is_empty());
            for column in &schema.columns {
                assert!(!column.doc.is_empty(), "{}.{}", table.name(), column.name);
            }
            if let Some(partition) = &schema.partition_by {
                assert!(schema.columns.iter().any(|c| &c.name == partition && c.role == Role::Storage));
            }
        }
    }
}
