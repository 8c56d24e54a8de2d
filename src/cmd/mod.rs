//! The commands, a file each: arguments in, text or JSON out.

pub mod by_hand;
pub mod check;
pub mod completions;
pub mod explain;
pub mod history;
pub mod notify;
pub mod query;
pub mod replay;
pub mod run;
pub mod waf;

use std::io::Write;

use serde::Serialize;

use crate::alarm::{Alarm, Ending};
use crate::detect::file::Detector;
use crate::pass::enforce::Enforced;

/// Prints a result.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Prints a result as one line of JSON.
fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print(&(crate::text::json_line(value)? + "\n"))
}

/// What stands before a plan that has no rule group.
const NO_GROUP: &str = "WAF plan, sent nowhere as the config names no rule group";

/// Says that a name is no detector's: nothing found would look like nothing wrong.
fn warn_of_unknown(name: Option<&str>, detectors: &[Detector]) {
    if let Some(name) = name.filter(|name| detectors.iter().all(|detector| detector.name != *name)) {
        let name = crate::text::printable(name);
        tracing::warn!("no detector is called {name}; of one that was there before, the tables keep what it found");
    }
}

/// Tells the log what a person should look at, and how that ends.
fn tell_alarms(alarms: &[Alarm]) -> Ending {
    alarms.iter().for_each(Alarm::log);
    Ending::of(alarms)
}

/// The rules that are due, as people read them.
fn plan_text(enforced: &Enforced) -> String {
    let plan = &enforced.plan;
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let (sessions, rules) = (plan.sessions as usize, plan.rules.len());
    let mut text = format!(
        "{sessions} session{} in {rules} rule{}, {} of {} WCU",
        plural(sessions),
        plural(rules),
        plan.wcu,
        plan.capacity
    );
    if plan.foreign_wcu > 0 {
        text += &format!(" ({} more are used by rules of others)", plan.foreign_wcu);
    }
    if let Some(full_at) = enforced.full_at {
        text += &format!("; full at {} at the present rate", crate::time::rfc3339(full_at));
    }
    text += "\n";
    for rule in &plan.rules {
        text += &format!("  {}  {}  {}\n", rule.name, rule.component, crate::text::printable(&rule.pattern));
    }
    if !plan.left_out.is_empty() {
        text += &format!("  LEFT OUT, not in force: {}\n", plan.left_out.join(", "));
    }
    text
}
