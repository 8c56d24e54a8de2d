//! Detection: detector files, sliding windows, and the evaluation of one on the other.

mod bench;
mod blocks;
pub mod catalog;
mod evaluate;
mod everybody;
pub mod file;
mod inspect;
mod load;
mod memory_watch;
pub mod near;
mod result;
mod statement;
mod tables;
mod who;
pub mod window;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use evaluate::{DetectError, Detection, DetectorStats, Purpose, detect, evaluations};
pub use everybody::{OfEverybody, PACE};
use file::Strength;
pub use inspect::{Inspection, Key};
pub use tables::{Learned, WINDOWED, others_can_be_learned, plan_ahead};
use window::Window;

/// What a detector found of one session in one window: a row of `findings`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub session_id: String,
    pub detector: String,
    pub window_start: DateTime<Utc>,
    pub window_end: DateTime<Utc>,
    pub score: f64,
    pub strength: Strength,
    pub family: String,
    /// The other columns of the detector's result, and in `who` the networks, countries, operators and user agents that used the
    /// session most in the window: a JSON object as text.
    pub evidence: String,
    pub run_id: String,
    /// No decision has seen it as it is.
    #[serde(skip_serializing, default = "undecided")]
    pub undecided: bool,
}

fn undecided() -> bool {
    true
}

impl Finding {
    pub fn key(&self) -> Key {
        (self.session_id.clone(), self.detector.clone(), self.window())
    }

    pub fn window(&self) -> Window {
        Window { start: self.window_start, end: self.window_end }
    }
}
