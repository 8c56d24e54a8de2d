//! Sweeps: the same logs judged with other values of parameters.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

use super::labels::Score;
use crate::cli::UsageError;
use crate::config::suggest::did_you_mean;
use crate::detect::file::{Detector, Parameter};
use crate::detect::window::check_lengths;
use crate::time::Span;

/// Combinations of values, at most: each is a row of the table.
const MAX_COMBINATIONS: usize = 1_000;

/// Parts of a range of fractions whose step is not given.
const PARTS: f64 = 10.0;

/// What separates a detector's name from the number of its trial: no name has it.
const MARK: char = '#';

/// A parameter and the values that are tried: `DETECTOR.PARAM=LO..HI[:STEP]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    detector: String,
    parameter: String,
    values: Vec<Setting>,
}

/// A value of a parameter, or of `window` or `every`.
#[derive(Clone, Debug, PartialEq)]
enum Setting {
    Parameter(Parameter),
    Span(Span),
}

impl Setting {
    fn to_json(&self) -> Value {
        match self {
            Setting::Parameter(Parameter::Int(value)) => (*value).into(),
            Setting::Parameter(Parameter::Float(value)) => (*value).into(),
            Setting::Parameter(other) => other.to_string().into(),
            Setting::Span(span) => span.to_string().into(),
        }
    }
}

impl Sweep {
    fn name(&self) -> String {
        format!("{}.{}", self.detector, self.parameter)
    }
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Sweep, String> {
        let form = || format!("{text:?} must be written as DETECTOR.PARAM=LO..HI or DETECTOR.PARAM=LO..HI:STEP");
        let (name, range) = text.split_once('=').ok_or_else(form)?;
        let (detector, parameter) = name.trim().split_once('.').ok_or_else(form)?;
        let (range, step) = range.split_once(':').map_or((range, None), |(range, step)| (range, Some(step.trim())));
        let (low, high) = range.split_once("..").ok_or_else(form)?;
        let values = values(low.trim(), high.trim(), step).map_err(|message| format!("{text}: {message}"))?;
        Ok(Sweep { detector: detector.to_owned(), parameter: parameter.to_owned(), values })
    }
}

/// The values from `low` to `high`, both included if the steps meet them.
fn values(low: &str, high: &str, step: Option<&str>) -> Result<Vec<Setting>, String> {
    let settings: Vec<Setting> = if let (Ok(low), Ok(high), Some(step)) =
        (low.parse::<i64>(), high.parse::<i64>(), step.map_or(Some(1), |step| step.parse::<i64>().ok()))
    {
        steps(low as f64, high as f64, step as f64)?
            .into_iter()
            .map(|value| Setting::Parameter(Parameter::Int(value as i64)))
            .collect()
    } else if let (Ok(low), Ok(high)) = (low.parse::<f64>(), high.parse::<f64>()) {
        let step = match step {
            None => (high - low) / PARTS,
            Some(step) => step.parse().map_err(|_| format!("the step {step} is no number"))?,
        };
        // Sums of fractions have tails that nobody wrote.
        let rounded = |value: f64| (value * 1e9).round() / 1e9;
        steps(low, high, step)?.into_iter().map(|value| Setting::Parameter(Parameter::Float(rounded(value)))).collect()
    } else {
        let (low, high) = (span(low)?, span(high)?);
        let step = step.map_or(Ok(Span::minutes(5)), span)?;
        steps(low.as_micros() as f64, high.as_micros() as f64, step.as_micros() as f64)?
            .into_iter()
            .map(|value| Setting::Span(Span::micros(value as i64)))
            .collect()
    };
    Ok(settings)
}

fn span(text: &str) -> Result<Span, String> {
    text.parse().map_err(|_| format!("{text:?} is neither a number nor a length of time (as 30m)"))
}

fn steps(low: f64, high: f64, step: f64) -> Result<Vec<f64>, String> {
    if !(low.is_finite() && high.is_finite() && low <= high) {
        return Err("the range must go from a lower to a higher value".to_owned());
    }
    if low == high {
        return Ok(vec![low]);
    }
    if !(step.is_finite() && step > 0.0) {
        return Err("the step must be more than nothing".to_owned());
    }
    // A step that meets the end but for rounding does meet it.
    let count = ((high - low) / step + 1e-9).floor();
    if count >= MAX_COMBINATIONS as f64 {
        return Err(format!("that is more than {MAX_COMBINATIONS} values"));
    }
    Ok((0..=count as u32).map(|place| low + f64::from(place) * step).collect())
}

/// Every combination of the values of some sweeps.
#[derive(Debug, Default)]
pub struct Grid {
    /// Detectors with other settings, each under a name of its own.
    pub trials: Vec<Detector>,
    pub combinations: Vec<Combination>,
}

#[derive(Debug)]
pub struct Combination {
    /// As they were written: `DETECTOR.PARAM` and the value.
    pub settings: BTreeMap<String, Value>,
    /// Of each swept detector the trial that stands for it.
    pub trial_of: BTreeMap<String, String>,
}

/// A row of the table: what would have been blocked with these settings.
#[derive(Debug, Serialize)]
pub struct Swept {
    pub settings: BTreeMap<String, Value>,
    /// Sessions that would have been blocked.
    pub revocations: u64,
    /// With labels: how well the blocks agree with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overall: Option<Score>,
    /// With labels: the findings of each swept detector, whatever came of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub detectors: BTreeMap<String, Score>,
}

impl Grid {
    /// The combinations of these sweeps over the detectors that are switched on, the last sweep changing fastest.
    pub fn new(sweeps: &[Sweep], detectors: &[Detector]) -> Result<Grid, UsageError> {
        let mut grid = Grid::default();
        for (place, sweep) in sweeps.iter().enumerate() {
            if sweeps[..place].iter().any(|other| other.name() == sweep.name()) {
                return Err(UsageError(format!("--sweep {} is there twice", sweep.name())));
            }
        }
        if sweeps.is_empty() {
            return Ok(grid);
        }
        let count = sweeps
            .iter()
            .try_fold(1usize, |count, sweep| count.checked_mul(sweep.values.len()))
            .filter(|count| *count <= MAX_COMBINATIONS)
            .ok_or_else(|| {
                UsageError(format!("the sweeps make more than {MAX_COMBINATIONS} combinations; take longer steps"))
            })?;
        // A trial is one detector with some settings: many combinations share it.
        let mut known: HashMap<(&str, Vec<usize>), String> = HashMap::new();
        for number in 0..count {
            let mut rest = number;
            let mut chosen: Vec<(&Sweep, usize)> = Vec::new();
            for sweep in sweeps.iter().rev() {
                chosen.insert(0, (sweep, rest % sweep.values.len()));
                rest /= sweep.values.len();
            }
            let mut trial_of = BTreeMap::new();
            for detector in chosen.iter().map(|(sweep, _)| sweep.detector.as_str()) {
                let own: Vec<(&Sweep, usize)> =
                    chosen.iter().filter(|(sweep, _)| sweep.detector == detector).copied().collect();
                let key = (detector, own.iter().map(|(_, place)| *place).collect());
                let name = match known.get(&key) {
                    Some(name) => name.clone(),
                    None => {
                        let mut trial = trial(find(detectors, detector)?, &own)?;
                        trial.name = format!("{detector}{MARK}{}", grid.trials.len());
                        let name = trial.name.clone();
                        grid.trials.push(trial);
                        known.insert(key, name.clone());
                        name
                    }
                };
                trial_of.insert(detector.to_owned(), name);
            }
            let settings = chosen.iter().map(|(sweep, place)| (sweep.name(), sweep.values[*place].to_json())).collect();
            grid.combinations.push(Combination { settings, trial_of });
        }
        Ok(grid)
    }
}

/// A detector with other settings: of each sweep one value.
fn trial(detector: &Detector, settings: &[(&Sweep, usize)]) -> Result<Detector, UsageError> {
    let mut trial = Detector { scores_only: true, ..detector.clone() };
    for (sweep, place) in settings {
        set(&mut trial, &sweep.parameter, &sweep.values[*place])
            .map_err(|message| UsageError(format!("--sweep {}: {message}", sweep.name())))?;
    }
    check_lengths(trial.window, trial.every)
        .map_err(|message| UsageError(format!("--sweep {}: {message}", detector.name)))?;
    Ok(trial)
}

/// The name of the trial that shows what comes near to a detector's thresholds.
pub fn near(detector: &str) -> String {
    format!("{detector}{MARK}near")
}

/// The detector that a trial stands for.
pub fn detector_of(trial: &str) -> &str {
    trial.split(MARK).next().unwrap_or(trial)
}

/// Whether a finding is of a trial, not of a detector as the config has it.
pub fn is_of_trial(detector: &str) -> bool {
    detector.contains(MARK)
}

fn find<'a>(detectors: &'a [Detector], name: &str) -> Result<&'a Detector, UsageError> {
    detectors.iter().find(|detector| detector.name == name).ok_or_else(|| {
        let known: Vec<&str> = detectors.iter().map(|detector| detector.name.as_str()).collect();
        let message =
            format!("--sweep: there is no detector {name} that is switched on; there are {}", known.join(", "));
        UsageError(did_you_mean(message, name, known))
    })
}

fn set(trial: &mut Detector, parameter: &str, setting: &Setting) -> Result<(), String> {
    match (parameter, setting) {
        ("window", Setting::Span(span)) => trial.window = *span,
        ("every", Setting::Span(span)) => trial.every = *span,
        ("window" | "every", _) => return Err(format!("{parameter} is a length of time, as 30m")),
        (_, Setting::Parameter(value)) if trial.params.contains_key(parameter) => trial.set(parameter, value)?,
        _ if trial.params.contains_key(parameter) => return Err(format!("{parameter} is no length of time")),
        _ => {
            let known: Vec<&str> = trial.params.keys().map(String::as_str).chain(["window", "every"]).collect();
            let message =
                format!("there is no parameter {parameter} that can be swept; there are {}", known.join(", "));
            return Err(did_you_mean(message, parameter, known));
        }
    }
    Ok(())
}
