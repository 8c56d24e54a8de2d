//! The revocation table of Secure Media Delivery at the Edge, in DynamoDB: read, never written.
//!
//! Source of its form: the solution's `source/lib/secure_media_stream_stack.ts` and the SDK's `Session.revoke`, version 1.2.6.

use std::collections::{BTreeMap, HashMap, HashSet};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, Utc};

use crate::aws;
use crate::session::token::epoch;

/// A session that somebody revoked by way of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct ManualRow {
    pub session_id: String,
    pub reason: Option<String>,
    pub last_updated: Option<DateTime<Utc>>,
    /// Until when; DynamoDB removes the row some time later.
    pub ttl: DateTime<Utc>,
}

/// What the table holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    pub manual: Vec<ManualRow>,
    /// The sessions of all rows, whoever wrote them.
    pub sessions: HashSet<String>,
    /// Rows of manual revocations, by session, that cannot be taken in, and why.
    pub unusable: BTreeMap<String, &'static str>,
}

/// Why the table could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the DynamoDB table {table} cannot be read: {reason}")]
pub struct TableError {
    table: String,
    reason: String,
}

/// Reads the whole table: it holds the revocations of some days.
pub async fn read(client: &Client, table: &str) -> Result<Contents, TableError> {
    let mut contents = Contents::default();
    let mut pages = client
        .scan()
        .table_name(table)
        // `type`, `reason` and `ttl` are reserved words.
        .projection_expression("#session, #type, #reason, #updated, #ttl")
        .expression_attribute_names("#session", "session_id")
        .expression_attribute_names("#type", "type")
        .expression_attribute_names("#reason", "reason")
        .expression_attribute_names("#updated", "last_updated")
        .expression_attribute_names("#ttl", "ttl")
        .into_paginator()
        .items()
        .send();
    while let Some(item) = pages.next().await {
        match item {
            Ok(item) => contents.add(&item),
            Err(error) => {
                let advice = match aws::code(&error) {
                    Some("AccessDeniedException") => "; grant dynamodb:Scan on it",
                    Some("ResourceNotFoundException") => "; see [dynamodb] table and region in the config",
                    Some("ValidationException") => "; its key has to be session_id, as Secure Media Delivery makes it",
                    _ => "",
                };
                let reason = format!("{}{advice}", aws::explain(&error));
                return Err(TableError { table: table.to_owned(), reason });
            }
        }
    }
    contents.manual.sort_by(|one, other| one.session_id.cmp(&other.session_id));
    Ok(contents)
}

impl Contents {
    fn add(&mut self, item: &HashMap<String, AttributeValue>) {
        let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned();
        let time = |name: &str| {
            let number = item.get(name).and_then(|value| value.as_n().ok())?;
            epoch(number.parse::<f64>().ok()? as i64)
        };
        let Some(session_id) = text("session_id") else { return };
        self.sessions.insert(session_id.clone());
        // AUTO ones are what streamwarden is there to replace.
        if text("type").as_deref() != Some("MANUAL") {
            return;
        }
        let Some(ttl) = time("ttl") else {
            self.unusable.insert(session_id, "its ttl is missing or no number, so that it would never end");
            return;
        };
        self.manual.push(ManualRow { session_id, reason: text("reason"), last_updated: time("last_updated"), ttl });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(values: &[(&str, AttributeValue)]) -> HashMap<String, AttributeValue> {
        values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn manual_rows_are_taken_and_others_are_only_there() {
        let (text, number) =
            (|text: &str| AttributeValue::S(text.to_owned()), |number: &str| AttributeValue::N(number.to_owned()));
        let mut contents = Contents::default();
        contents.add(&item(&[
            ("session_id", text("Manual000001")),
            ("type", text("MANUAL")),
            ("reason", text("COMPROMISED")),
            ("last_updated", number("1795200000")),
            ("ttl", number("1795286400.5")),
        ]));
        contents.add(&item(&[("session_id", text("Auto00000001")), ("type", text("AUTO")), ("ttl", number("1"))]));
        contents.add(&item(&[("session_id", text("Untyped00001"))]));
        contents.add(&item(&[("session_id", text("Endless00001")), ("type", text("MANUAL")), ("ttl", text("soon"))]));
        let at = |seconds| DateTime::from_timestamp(seconds, 0);
        let expected = ManualRow {
            session_id: "Manual000001".into(),
            reason: Some("COMPROMISED".into()),
            last_updated: at(1_795_200_000),
            ttl: at(1_795_286_400).unwrap(),
        };
        assert_eq!(contents.manual, [expected]);
        assert_eq!(contents.sessions.len(), 4);
        assert!(contents.unusable["Endless00001"].contains("ttl"));
    }
}
