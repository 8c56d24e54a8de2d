//! The daemon's metrics, in the OpenMetrics text format.

use std::sync::atomic::AtomicU64;

use chrono::{DateTime, Utc};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::status::Ended;
use crate::alarm::AlarmKind;
use crate::pass::enforce::WafState;

/// One label: its name is fixed, its value is one of ours, never a text of a log.
type Label = [(&'static str, String); 1];
type Real = Gauge<f64, AtomicU64>;

/// Bounds of the histograms, in seconds: from a pass without news to one that takes up a day.
const SECONDS: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0];

pub struct Metrics {
    registry: Registry,
    passes: Family<Label, Counter>,
    running: Gauge,
    missed: Counter,
    stages: Family<Label, Histogram>,
    detector_seconds: Family<Label, Counter<f64, AtomicU64>>,
    findings: Family<Label, Counter>,
    objects: Family<Label, Counter>,
    rows: Family<Label, Counter>,
    events: Family<Label, Counter>,
    errors: Family<Label, Counter>,
    alarms: Family<Label, Gauge>,
    active: Gauge,
    waf_in_step: Gauge,
    waf_wcu: Family<Label, Gauge>,
    waf_left_out: Gauge,
    lag: Family<Label, Real>,
    last_pass: Real,
    last_success: Real,
    last_success_age: Real,
    resident: Gauge,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let mut metrics = Metrics {
            registry: Registry::with_prefix("streamwarden"),
            passes: Family::default(),
            running: Gauge::default(),
            missed: Counter::default(),
            stages: Family::new_with_constructor(histogram),
            detector_seconds: Family::default(),
            findings: Family::default(),
            objects: Family::default(),
            rows: Family::default(),
            events: Family::default(),
            errors: Family::default(),
            alarms: Family::default(),
            active: Gauge::default(),
            waf_in_step: Gauge::default(),
            waf_wcu: Family::default(),
            waf_left_out: Gauge::default(),
            lag: Family::default(),
            last_pass: Real::default(),
            last_success: Real::default(),
            last_success_age: Real::default(),
            resident: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

fn label(name: &'static str, value: &str) -> Label {
    [(name, value.to_owned())]
}

fn unix(time: DateTime<Utc>) -> f64 {
    time.timestamp_micros() as f64 / 1e6
}

impl Metrics {
    fn register(&mut self) {
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        let registry = &mut self.registry;
        registry.register("build", "The program", version);
        registry.register(
            "passes",
            "Passes by how they ended: done, attention (a person should look), failed, cut_off, locked (another run was at work)",
            self.passes.clone(),
        );
        registry.register("pass_running", "1 while a pass is under way", self.running.clone());
        registry.register(
            "schedule_missed",
            "Times of the schedule that went by while a pass was under way",
            self.missed.clone(),
        );
        registry.register(
            "stage_seconds",
            "Duration of passes by stage: ingest, detect, record, enforce, total",
            self.stages.clone(),
        );
        registry.register(
            "detector_seconds",
            "Time spent in each detector; windows are evaluated beside each other",
            self.detector_seconds.clone(),
        );
        registry.register("findings", "Findings that are new or have changed, by detector", self.findings.clone());
        registry.register("objects", "Log objects by what became of them", self.objects.clone());
        registry.register(
            "rows",
            "Log lines: read, of these accepted, refused, without_session; rejected",
            self.rows.clone(),
        );
        registry.register("events", "Events of the history, by kind", self.events.clone());
        registry.register("errors", "Parts of passes that failed, by kind of alarm", self.errors.clone());
        registry.register("alarms", "Alarms of the last pass, by kind; see docs/runbook.md", self.alarms.clone());
        registry.register(
            "active_revocations",
            "Sessions that are to be blocked or counted in WAF now",
            self.active.clone(),
        );
        registry.register(
            "waf_in_step",
            "1 if the rule group held what is due after the last pass",
            self.waf_in_step.clone(),
        );
        registry.register(
            "waf_wcu",
            "WCUs of the rule group: used (by our rules), foreign (by rules of others), left, capacity",
            self.waf_wcu.clone(),
        );
        registry.register("waf_left_out", "Active sessions that are not in the rules", self.waf_left_out.clone());
        registry.register(
            "log_lag_seconds",
            "From the last request in a log object to its arrival, in the last pass that read any: quantiles 0.5, 0.95 and 1",
            self.lag.clone(),
        );
        registry.register("last_pass_timestamp_seconds", "When the last pass ended", self.last_pass.clone());
        registry.register(
            "last_success_timestamp_seconds",
            "When the last pass ended that had no failure; 0 before the first",
            self.last_success.clone(),
        );
        registry.register(
            "last_success_age_seconds",
            "How long ago that is; since the start before the first",
            self.last_success_age.clone(),
        );
        registry.register("resident_memory_bytes", "Memory of the process", self.resident.clone());
        // What has not happened yet is 0, not absent: an alert on an increase sees the first one.
        for result in ["done", "attention", "failed", "cut_off", "locked"] {
            let _ = self.passes.get_or_create(&label("result", result));
        }
        for kind in AlarmKind::ALL {
            let _ = self.alarms.get_or_create(&label("kind", kind.name()));
            if kind.is_failure() {
                let _ = self.errors.get_or_create(&label("kind", kind.name()));
            }
        }
    }

    pub fn started(&self) {
        self.running.set(1);
    }

    pub fn missed(&self, times: u64) {
        self.missed.inc_by(times);
    }

    /// Takes over what a pass did.
    pub fn ended(&self, ended: &Ended, result: &'static str, now: DateTime<Utc>) {
        self.running.set(0);
        self.passes.get_or_create(&label("result", result)).inc();
        self.last_pass.set(unix(now));
        let outcome = match &ended.result {
            Ok(outcome) => outcome,
            Err(kind) => {
                let label = label("kind", kind.name());
                if kind.is_failure() {
                    self.errors.get_or_create(&label).inc();
                }
                // The others were not looked at; they stand as they stood.
                self.alarms.get_or_create(&label).set(1);
                return;
            }
        };
        let summary = &outcome.summary;
        for kind in AlarmKind::ALL {
            let alarms = summary.alarms.iter().filter(|alarm| alarm.kind == kind).count() as u64;
            self.alarms.get_or_create(&label("kind", kind.name())).set(alarms as i64);
            if kind.is_failure() {
                self.errors.get_or_create(&label("kind", kind.name())).inc_by(alarms);
            }
        }
        let seconds = &summary.seconds;
        for (stage, seconds) in [
            ("ingest", seconds.ingest),
            ("detect", seconds.detect),
            ("record", seconds.record),
            ("enforce", seconds.enforce),
            ("total", seconds.total),
        ] {
            self.stages.get_or_create(&label("stage", stage)).observe(seconds);
        }
        for (name, stats) in &summary.detectors {
            self.findings.get_or_create(&label("detector", name)).inc_by(stats.findings);
            self.detector_seconds.get_or_create(&label("detector", name)).inc_by(stats.seconds);
        }
        let objects = &summary.objects;
        for (status, objects) in
            [("ingested", objects.ingested), ("duplicate", objects.duplicate), ("quarantined", objects.quarantined)]
        {
            self.objects.get_or_create(&label("status", status)).inc_by(objects);
        }
        let rows = &summary.rows;
        for (kind, rows) in [
            ("read", rows.read),
            ("accepted", rows.accepted),
            ("refused", rows.refused),
            ("without_session", rows.without_session),
            ("rejected", rows.rejected),
        ] {
            self.rows.get_or_create(&label("kind", kind)).inc_by(rows);
        }
        for (event, events) in [
            ("revoked", summary.revoked),
            ("extended", summary.extended),
            ("expired", summary.expired),
            ("held", summary.held),
            ("observed", summary.observed),
            ("restored", summary.restored),
        ] {
            self.events.get_or_create(&label("event", event)).inc_by(events);
        }
        let lag = &summary.lag_seconds;
        for (quantile, lag) in [("0.5", lag.median), ("0.95", lag.p95), ("1", lag.worst)] {
            if let Some(lag) = lag {
                self.lag.get_or_create(&label("quantile", quantile)).set(lag);
            }
        }
        self.waf_in_step.set(i64::from(matches!(outcome.enforced.waf, WafState::Updated | WafState::Unchanged)));
        // What the group holds that could not be reached is not known: what it held last stands.
        if outcome.enforced.waf != WafState::NotInStep {
            let plan = &outcome.enforced.plan;
            let left = plan.capacity.saturating_sub(plan.wcu + plan.foreign_wcu);
            for (use_, wcu) in
                [("used", plan.wcu), ("foreign", plan.foreign_wcu), ("left", left), ("capacity", plan.capacity)]
            {
                self.waf_wcu.get_or_create(&label("use", use_)).set(wcu as i64);
            }
            self.waf_left_out.set(plan.left_out.len() as i64);
            self.active.set(plan.sessions as i64 + plan.left_out.len() as i64);
        }
    }

    pub fn succeeded(&self, now: DateTime<Utc>) {
        self.last_success.set(unix(now));
    }

    /// All of them as text. `start` is when the daemon began.
    pub fn text(&self, now: DateTime<Utc>, start: DateTime<Utc>) -> Result<String, std::fmt::Error> {
        let last = self.last_success.get();
        self.last_success_age.set((unix(now) - if last > 0.0 { last } else { unix(start) }).max(0.0));
        self.resident.set(resident_bytes().unwrap_or(0));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Memory of this process, as Linux tells it.
fn resident_bytes() -> Option<i64> {
    let pages: i64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: it asks for a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alerts_are_about_metrics_that_there_are() {
        let metrics = Metrics::default();
        let _ = metrics.lag.get_or_create(&label("quantile", "0.95"));
        for use_ in ["left", "capacity"] {
            let _ = metrics.waf_wcu.get_or_create(&label("use", use_));
        }
        let text = metrics.text(Utc::now(), Utc::now()).unwrap();
        let alerts = include_str!("../../deploy/prometheus/alerts.yml");
        let asked = regex::Regex::new(r"streamwarden_[a-z_]+(\{[^}]*\})?").unwrap();
        let asked: Vec<&str> = asked.find_iter(alerts).map(|found| found.as_str()).collect();
        assert!(asked.len() >= 8, "{asked:?}");
        for metric in asked {
            let there = text.lines().any(|line| {
                !line.starts_with('#') && line.strip_prefix(metric).is_some_and(|rest| rest.starts_with([' ', '{']))
            });
            assert!(there, "{metric} is in no line of\n{text}");
        }
    }
}
