//! Progress bars on stderr, when it is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One stage of a pass: how much there is to do, and how much is done.
pub struct Stage(ProgressBar);

impl Stage {
    /// Shows nothing.
    pub fn hidden() -> Stage {
        Stage(ProgressBar::hidden())
    }

    /// Reading, in bytes.
    pub fn bytes(name: &'static str) -> Stage {
        Stage::shown(name, "{prefix:>8} [{bar:30}] {bytes}/{total_bytes} ({binary_bytes_per_sec})")
    }

    /// Anything that is counted.
    pub fn steps(name: &'static str) -> Stage {
        Stage::shown(name, "{prefix:>8} [{bar:30}] {pos}/{len}")
    }

    fn shown(name: &'static str, template: &str) -> Stage {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template(template).expect("the template is fixed").progress_chars("=> "));
        bar.set_prefix(name);
        Stage(bar)
    }

    pub fn set_total(&self, total: u64) {
        self.0.set_length(total);
    }

    pub fn advance(&self, by: u64) {
        self.0.inc(by);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
