//! How near a finding is to its detector's thresholds.

use serde::Serialize;
use serde_json::{Map, Value};

use super::Finding;
use super::file::Detector;

/// A number of the evidence against the parameter that it is measured by.
#[derive(Debug, PartialEq, Serialize)]
pub struct Number {
    pub name: String,
    pub value: f64,
    pub threshold: f64,
    pub parameter: String,
}

/// The numbers of a finding that its detector has thresholds for.
pub fn numbers(detector: &Detector, finding: &Finding) -> Vec<Number> {
    let evidence: Map<String, Value> = serde_json::from_str(&finding.evidence).unwrap_or_default();
    let number = |(name, parameter): (&String, &String)| {
        Some(Number {
            name: name.clone(),
            value: evidence.get(name)?.as_f64()?,
            threshold: detector.params.get(parameter)?.as_f64()?,
            parameter: parameter.clone(),
        })
    };
    detector.thresholds.iter().filter_map(number).collect()
}

/// How much of the way to its thresholds a window has come: the furthest number counts, as any may be the one that decides.
pub fn share(numbers: &[Number]) -> f64 {
    numbers.iter().map(|number| number.value / number.threshold).fold(0.0, f64::max)
}
