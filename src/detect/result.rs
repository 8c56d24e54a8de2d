//! One detector on one window, and its result as findings.

use std::collections::HashMap;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use serde_json::{Map, Value};

use super::Finding;
use super::file::{Detector, Strength};
use super::memory_watch::TooMuchMemory;
use super::statement::Rows;
use super::tables::Statements;
use super::window::Window;
use crate::rows::{self, texts};

/// A finding whose evidence is not put into text yet.
pub struct Found {
    pub finding: Finding,
    evidence: Map<String, Value>,
}

impl Found {
    pub fn session(&self) -> &str {
        &self.finding.session_id
    }

    /// Of what nobody looks at, it takes most of the memory.
    pub fn forget_evidence(&mut self) {
        self.evidence = Map::new();
    }

    /// The finding with its evidence and who used the session, unless the detector has a column of that name.
    pub fn with_evidence(mut self, who: Option<&Map<String, Value>>) -> Finding {
        if let Some(who) = who {
            self.evidence.entry("who").or_insert_with(|| Value::Object(who.clone()));
        }
        self.finding.evidence = Value::Object(self.evidence).to_string();
        self.finding
    }
}

/// Runs one detector, by its place, on one window. The error is for people: it says what was wrong with the result.
pub async fn run(
    statements: &Statements,
    index: usize,
    detector: &Detector,
    window: Window,
    rows: &[(&'static str, Rows)],
    run_id: &str,
) -> Result<Vec<Found>, String> {
    let batches = statements.run(statements.detector(index), rows).await.map_err(|error| match error {
        DataFusionError::External(error) if error.is::<TooMuchMemory>() => error.to_string(),
        error => error.strip_backtrace(),
    })?;
    let mut findings: HashMap<String, Found> = HashMap::new();
    for batch in &batches {
        for found in read_findings(batch, detector, window, run_id)? {
            match findings.get(&found.finding.session_id) {
                Some(known) if known.finding.score >= found.finding.score => {}
                _ => {
                    findings.insert(found.finding.session_id.clone(), found);
                }
            }
        }
    }
    Ok(findings.into_values().collect())
}

fn read_findings(batch: &RecordBatch, detector: &Detector, window: Window, run_id: &str) -> Result<Vec<Found>, String> {
    let ids: Vec<Option<&str>> = texts(batch, "session_id")?.collect();
    let scores = batch.column_by_name("score").ok_or("the result has no column score")?;
    let scores = cast(scores, &DataType::Float64).map_err(|error| error.to_string())?;
    let scores = scores.as_primitive::<Float64Type>();
    let strengths = match batch.column_by_name("strength") {
        Some(_) => Some(texts(batch, "strength")?.collect::<Vec<_>>()),
        None => None,
    };
    // The JSON writer leaves nulls out, so rows keep their places.
    let evidence = rows::to_json(std::slice::from_ref(batch))?;
    let mut findings = Vec::with_capacity(ids.len());
    for (place, (id, mut evidence)) in ids.into_iter().zip(evidence).enumerate() {
        // The refusals that share a row have no session; there is nobody to find.
        let Some(session_id) = id else { continue };
        let score = (!scores.is_null(place)).then(|| scores.value(place));
        let score = score
            .filter(|score| score.is_finite() && *score > 0.0)
            .ok_or("a row of the result has no finite score above 0")?;
        evidence.values_mut().for_each(round);
        let own = match &strengths {
            Some(strengths) => parse_strength(strengths[place])?,
            None => detector.strength,
        };
        for column in ["session_id", "score", "strength"] {
            evidence.remove(column);
        }
        let finding = Finding {
            session_id: session_id.to_owned(),
            detector: detector.name.clone(),
            window_start: window.start,
            window_end: window.end,
            score: rounded(score),
            strength: detector.strength_override.unwrap_or(own),
            family: detector.family.clone(),
            evidence: String::new(),
            run_id: run_id.to_owned(),
            undecided: true,
        };
        findings.push(Found { finding, evidence });
    }
    Ok(findings)
}

/// A sum of fractions ends in other digits when its parts come in another order: of a measure that long no digit means
/// anything, and the same finding must be the same.
fn rounded(value: f64) -> f64 {
    format!("{value:.11e}").parse().unwrap_or(value)
}

fn round(value: &mut Value) {
    if value.is_f64()
        && let Some(number) = value.as_f64()
    {
        *value = rounded(number).into();
    }
}

fn parse_strength(text: Option<&str>) -> Result<Strength, String> {
    match text {
        Some("strong") => Ok(Strength::Strong),
        Some("medium") => Ok(Strength::Medium),
        Some("weak") => Ok(Strength::Weak),
        other => Err(format!(
            "the column strength holds {}, not strong, medium or weak",
            other.map_or("a null".to_owned(), |text| format!("{text:?}"))
        )),
    }
}
