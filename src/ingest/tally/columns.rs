//! The rows of a tally as record batches.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringViewArray, StringViewBuilder, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::compute::take;
use arrow::record_batch::RecordBatch;
use chrono::DateTime;

use super::{Activity, ActivityKey, CredentialKey, Delivery, DeliveryKey, Id, MINUTE, Refusal, RefusalKey, Rows, Seen};
use crate::geo::Country;
use crate::network_type::NetworkType;
use crate::schema::Table;

/// Rows in a record batch, at most.
const BATCH_ROWS: usize = 8_192;

/// The partition of a minute: its hour.
fn hour(minute: i64) -> String {
    DateTime::from_timestamp_micros(minute).unwrap_or_default().format("%Y-%m-%dT%H").to_string()
}

pub type Columns = Vec<(&'static str, ArrayRef)>;

/// The rows of a table as record batches. `columns` makes all columns but `batch`.
pub fn batches<K, V>(
    table: Table,
    batch: i64,
    rows: &Rows<K, V>,
    columns: impl Fn(&[(&K, &V)]) -> Columns,
) -> Vec<RecordBatch> {
    let schema = table.schema().stored();
    let all: Vec<(&K, &V)> = rows.iter().collect();
    all.chunks(BATCH_ROWS)
        .map(|rows| {
            let mut made = columns(rows);
            made.push(("batch", Arc::new(Int64Array::from_value(batch, rows.len()))));
            let in_order = schema.fields().iter().map(|field| {
                let made = made.iter().find(|(name, _)| name == field.name());
                made.unwrap_or_else(|| {
                    unreachable!("{} has a column {} that nothing fills", table.name(), field.name())
                })
                .1
                .clone()
            });
            RecordBatch::try_new(schema.clone(), in_order.collect()).expect("the columns are of the schema's types")
        })
        .collect()
}

fn instants(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn ints(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

/// Of texts that are made for it.
fn strings<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    let mut strings = StringViewBuilder::new().with_deduplicate_strings();
    values.for_each(|value| strings.append_option(value));
    Arc::new(strings.finish())
}

/// Of the texts of a tally.
fn known(texts: &StringViewArray, ids: impl Iterator<Item = Option<Id>>) -> ArrayRef {
    take(texts, &ids.collect::<UInt32Array>(), None).expect("each id is the place of a text")
}

fn bools(values: impl Iterator<Item = bool>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<BooleanArray>())
}

fn floats(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.collect::<Float64Array>())
}

fn hours(minutes: impl Iterator<Item = i64>) -> ArrayRef {
    let (mut of, mut text) = (i64::MIN, String::new());
    let mut hours = StringViewBuilder::new().with_deduplicate_strings();
    for minute in minutes {
        if minute.div_euclid(60 * MINUTE) != of {
            (of, text) = (minute.div_euclid(60 * MINUTE), hour(minute));
        }
        hours.append_value(&text);
    }
    Arc::new(hours.finish())
}

pub fn activity_columns(texts: &StringViewArray, rows: &[(&ActivityKey, &Activity)]) -> Columns {
    let keys = || rows.iter().map(|(key, _)| *key);
    let values = || rows.iter().map(|(_, activity)| *activity);
    vec![
        ("hour", hours(keys().map(|key| key.minute))),
        ("minute", instants(keys().map(|key| Some(key.minute)))),
        ("session_id", known(texts, keys().map(|key| Some(key.session)))),
        ("network", known(texts, keys().map(|key| key.network))),
        ("country", strings(keys().map(|key| key.country.as_ref().map(Country::as_str)))),
        ("asn", ints(keys().map(|key| key.asn))),
        ("user_agent", known(texts, keys().map(|key| key.user_agent))),
        ("referer_host", known(texts, keys().map(|key| key.referer_host))),
        ("content", known(texts, keys().map(|key| key.content))),
        ("distribution", known(texts, values().map(|row| row.distribution))),
        ("bound", bools(keys().map(|key| key.bound))),
        ("derived", bools(values().map(|row| row.derived))),
        ("ip", strings(values().map(|row| row.ip.map(|ip| ip.to_string())))),
        ("device", strings(values().map(|row| Some(row.device)))),
        ("network_type", strings(values().map(|row| row.network_type.map(NetworkType::name)))),
        ("latitude", floats(values().map(|row| row.latitude))),
        ("longitude", floats(values().map(|row| row.longitude))),
        ("accuracy_km", ints(values().map(|row| row.accuracy_km))),
        ("requests", ints(values().map(|row| Some(row.requests)))),
        ("manifests", ints(values().map(|row| Some(row.manifests)))),
        ("segments", ints(values().map(|row| Some(row.segments)))),
        ("bytes", ints(values().map(|row| Some(row.bytes)))),
        ("first_seen", instants(values().map(|row| Some(row.first_seen)))),
        ("last_seen", instants(values().map(|row| Some(row.last_seen)))),
    ]
}

pub fn delivery_columns(texts: &StringViewArray, rows: &[(&DeliveryKey, &Delivery)]) -> Columns {
    let keys = || rows.iter().map(|(key, _)| *key);
    let values = || rows.iter().map(|(_, delivery)| *delivery);
    vec![
        ("hour", hours(keys().map(|key| key.minute))),
        ("minute", instants(keys().map(|key| Some(key.minute)))),
        ("session_id", known(texts, keys().map(|key| Some(key.session)))),
        ("segment", ints(keys().map(|key| Some(key.segment)))),
        ("network", known(texts, keys().map(|key| Some(key.network)))),
        ("bound", bools(keys().map(|key| key.bound))),
        ("asn", ints(values().map(|row| row.asn))),
        ("network_type", strings(values().map(|row| row.network_type.map(NetworkType::name)))),
        ("requests", ints(values().map(|row| Some(row.requests)))),
    ]
}

pub fn credential_columns(texts: &StringViewArray, rows: &[(&CredentialKey, &Seen)]) -> Columns {
    let keys = || rows.iter().map(|(key, _)| *key);
    let values = || rows.iter().map(|(_, seen)| *seen);
    vec![
        ("session_id", known(texts, keys().map(|key| Some(key.session)))),
        ("scheme", strings(keys().map(|key| Some(key.scheme)))),
        ("component", strings(keys().map(|key| Some(key.component.to_string())))),
        ("credential", known(texts, keys().map(|key| Some(key.credential)))),
        ("token_expires", instants(values().map(|row| row.token_expires))),
        ("unknown_expiry", bools(values().map(|row| row.unknown_expiry))),
        ("first_seen", instants(values().map(|row| Some(row.first_seen)))),
        ("last_seen", instants(values().map(|row| Some(row.last_seen)))),
    ]
}

pub fn refusal_columns(texts: &StringViewArray, rows: &[(&RefusalKey, &Refusal)]) -> Columns {
    let keys = || rows.iter().map(|(key, _)| *key);
    let values = || rows.iter().map(|(_, refusal)| *refusal);
    vec![
        ("hour", hours(keys().map(|key| key.minute))),
        ("minute", instants(keys().map(|key| Some(key.minute)))),
        ("session_id", known(texts, keys().map(|key| key.session))),
        ("requests", ints(values().map(|row| Some(row.requests)))),
        ("networks", ints(values().map(|row| Some(row.networks)))),
    ]
}
