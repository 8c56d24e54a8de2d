//! The page itself: text and tables, with the drawings in place.

use chrono::{DateTime, TimeDelta, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{Insight, Ranking, charts};
use crate::replay::baseline::{Change, Changes};
use crate::replay::delivery::Delivery;
use crate::replay::labels::{Label, Score};
use crate::replay::sweep::Swept;
use crate::replay::{Replayed, Revocation};
use crate::text::printable;
use crate::time::rfc3339;

/// Rows of a table of sessions, at most; how many more there are stands below it.
const ROWS: usize = 500;

/// Nothing is loaded and nothing runs: what logs say cannot make the page do anything.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 1020px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; overflow-wrap: anywhere; }
p { margin: .3rem 0 .6rem; }
.note { color: #555; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; margin: .4rem 0; }
th, td { text-align: left; padding: .18rem .7rem .18rem 0; vertical-align: top; border-bottom: 1px solid #eee; }
th { color: #555; font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.id { font-family: ui-monospace, monospace; min-width: 8.5rem; max-width: 22rem; overflow-wrap: anywhere; }
tr.wrong td { background: #fdecea; }
tr.best td { background: #e8f4ea; }
.figures { display: flex; flex-wrap: wrap; gap: .6rem 2rem; margin: .8rem 0; }
.figures div { min-width: 7rem; }
.figures b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.cards { display: grid; grid-template-columns: 1fr; gap: .4rem; }
.card { border-top: 1px solid #eee; padding-top: .4rem; }
.card .charts { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; }
svg { max-width: 100%; height: auto; }
.wide svg { min-width: 760px; }
.bar { display: inline-block; height: .7rem; background: #d55e00; vertical-align: middle; }
.bar.benign { background: #0072b2; }
.bar.grey { background: #999; }
.timeline text { font: 11px ui-monospace, monospace; fill: #333; }
.timeline text.tick { fill: #777; }
.timeline text.mark { font: 9px system-ui, sans-serif; }
.timeline line.grid { stroke: #eee; }
";

/// The page for what a replay found; `source` says what was read.
pub fn render(replayed: &Replayed, insight: &Insight, source: &str, made_at: DateTime<Utc>) -> String {
    let title = "streamwarden replay";
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                p class="note" { (printable(source)) ", at " (rfc3339(made_at)) }
                (summary(replayed))
                @if !insight.kinds.is_empty() { (kinds(insight)) }
                (blocks(replayed))
                @if let Some(changes) = &replayed.changes { (baseline(changes)) }
                @if !replayed.sweep.is_empty() { (sweep(&replayed.sweep)) }
                (delivery(&replayed.delivery, &replayed.revocations))
                (detectors(replayed, insight))
                (timelines(insight))
            }
        }
    };
    markup.into_string()
}

fn figure(name: &str, value: impl std::fmt::Display) -> Markup {
    html! { div { b { (value) } (name) } }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.3}"))
}

fn summary(replayed: &Replayed) -> Markup {
    html! {
        section id="summary" {
            div class="figures" {
                (figure("requests", replayed.rows))
                (figure("sessions", replayed.sessions))
                (figure("would be blocked", replayed.revocations.len()))
                @if !replayed.held.is_empty() { (figure("of these held by the guard", replayed.held.len())) }
                @if let Some(evaluation) = &replayed.evaluation {
                    (figure("precision", ratio(evaluation.overall.precision)))
                    (figure("recall", ratio(evaluation.overall.recall)))
                    (figure("F1", ratio(evaluation.overall.f1)))
                }
            }
            @for alarm in &replayed.alarms {
                p { @if alarm.kind.is_failure() { "Failed: " } (printable(&alarm.text)) }
            }
        }
    }
}

fn kinds(insight: &Insight) -> Markup {
    html! {
        section id="kinds" {
            h2 { "By kind" }
            p class="note" { "Sessions that the labels know. Marked: blocked though benign, or not blocked though pirate." }
            div class="wide" { table {
                thead { tr { th { "label" } th { "kind" } th class="n" { "sessions" } th class="n" { "blocked" } th class="n" { "not blocked" } th { "share blocked" } } }
                tbody {
                    @for kind in &insight.kinds {
                        tr class=[(kind.wrong() > 0.0).then_some("wrong")] {
                            td { (kind.label.name()) }
                            td { (if kind.kind.is_empty() { "–".into() } else { printable(&kind.kind) }) }
                            td class="n" { (kind.sessions) }
                            td class="n" { (kind.blocked) }
                            td class="n" { (kind.sessions - kind.blocked) }
                            td {
                                @let share = kind.blocked as f64 / kind.sessions.max(1) as f64;
                                span class={ "bar " (kind.label.name()) } style=(format!("width:{:.1}rem", share * 10.0)) {}
                                " " (format!("{:.1} %", share * 100.0))
                            }
                        }
                    }
                }
            } }
        }
    }
}

fn more(all: usize) -> Markup {
    html! { @if all > ROWS { p class="note" { (all - ROWS) " more are not shown; --output json has them all." } } }
}

fn blocks(replayed: &Replayed) -> Markup {
    html! {
        section id="blocks" {
            h2 { "Would be blocked" }
            @if replayed.revocations.is_empty() { p { "Nobody." } } @else {
                div class="wide" { table {
                    thead { tr { th { "session" } th class="n" { "score" } th { "shared from" } th { "decided" } th { "blocked" } th { "until" } th { "by" } } }
                    tbody { @for revocation in replayed.revocations.iter().take(ROWS) { (block(revocation)) } }
                } }
                (more(replayed.revocations.len()))
            }
            @if !replayed.held.is_empty() {
                p { "The guard would have held " (replayed.held.len()) " of them for a person to look at." }
            }
        }
    }
}

fn block(revocation: &Revocation) -> Markup {
    let time =
        |time: Option<DateTime<Utc>>| time.map_or("–".to_owned(), |time| time.format("%m-%d %H:%M").to_string());
    html! {
        tr {
            td class="id" { (printable(&revocation.session_id)) }
            td class="n" { (format!("{:.2}", revocation.score)) }
            td { (time(revocation.shared_at)) }
            td { (time(Some(revocation.decided_at))) }
            td { (revocation.not_blocked.as_deref().map_or_else(|| time(revocation.blocked_at), |why| printable(why).into_owned())) }
            td { (time(Some(revocation.expires_at))) }
            td { (revocation.detectors.join(", ")) }
        }
    }
}

fn baseline(changes: &Changes) -> Markup {
    let table = |id: &str, title: &str, rows: &[Change]| {
        html! {
            h3 id=(id) { (title) ": " (rows.len()) }
            @if !rows.is_empty() {
                div class="wide" { table {
                    thead { tr { th { "session" } th { "known to be" } th class="n" { "score" } th { "decided" } th { "by" } th { "was" } } }
                    tbody { @for change in rows.iter().take(ROWS) { tr {
                        td class="id" { (printable(&change.revocation.session_id)) }
                        td { (change.label.map_or("–", Label::name)) " " (change.kind.as_deref().map(printable).unwrap_or_default()) }
                        td class="n" { (format!("{:.2}", change.revocation.score)) }
                        td { (rfc3339(change.revocation.decided_at)) }
                        td { (printable(&change.revocation.detectors.join(", "))) }
                        td { @if let Some(was) = &change.was {
                            (rfc3339(was.decided_at)) " " (printable(&was.detectors.join(", "))) " " (format!("{:.2}", was.score))
                        } }
                    } } }
                } }
                (more(rows.len()))
            }
        }
    };
    html! {
        section id="baseline" {
            h2 { "Against the baseline" }
            @if !changes.same_logs { p { "The baseline was made of other logs: the comparison says little." } }
            (table("added", "Blocked now, not then", &changes.added))
            (table("removed", "Blocked then, not now", &changes.removed))
            (table("changed", "Blocked in both, otherwise", &changes.changed))
            p class="note" { (changes.same) " are blocked in both alike." }
        }
    }
}

fn sweep(rows: &[Swept]) -> Markup {
    let best = rows.iter().filter_map(|row| row.overall?.f1).fold(f64::NEG_INFINITY, f64::max);
    let score = |score: Option<&Score>| {
        html! {
            td class="n" { (ratio(score.and_then(|score| score.precision))) }
            td class="n" { (ratio(score.and_then(|score| score.recall))) }
            td class="n" { (ratio(score.and_then(|score| score.f1))) }
        }
    };
    let detectors: Vec<&String> = rows.first().map(|row| row.detectors.keys().collect()).unwrap_or_default();
    html! {
        section id="sweep" {
            h2 { "Sweep" }
            @if let Some(chart) = charts::sweep(rows) { (PreEscaped(chart)) }
            div class="wide" { table {
                thead { tr {
                    @if let Some(first) = rows.first() { @for name in first.settings.keys() { th class="n" { (name) } } }
                    th class="n" { "blocked" } th class="n" { "precision" } th class="n" { "recall" } th class="n" { "F1" }
                    @for name in &detectors { th class="n" { (name) " alone: precision" } th class="n" { "recall" } th class="n" { "F1" } }
                } }
                tbody { @for row in rows {
                    tr class=[row.overall.and_then(|score| score.f1).is_some_and(|f1| f1 == best).then_some("best")] {
                        @for value in row.settings.values() { td class="n" { (value.as_str().map_or_else(|| value.to_string(), str::to_owned)) } }
                        td class="n" { (row.revocations) }
                        (score(row.overall.as_ref()))
                        @for name in &detectors { (score(row.detectors.get(*name))) }
                    }
                } }
            } }
            p class="note" { "The first figures are of the blocks, all detectors together; “alone” are the findings of that detector, whatever came of them." }
        }
    }
}

fn delivery(delivery: &Delivery, revocations: &[Revocation]) -> Markup {
    let times: Vec<TimeDelta> =
        revocations.iter().filter_map(|revocation| Some(revocation.blocked_at? - revocation.shared_at?)).collect();
    let minutes =
        |seconds: Option<f64>| seconds.map_or("–".to_owned(), |seconds| format!("{:.1} min", seconds / 60.0));
    html! {
        section id="delivery" {
            h2 { "Time to block" }
            @if let Some(unknown) = &delivery.unknown { p { "Not known: " (printable(unknown)) "." } } @else {
                div class="figures" {
                    (figure("median", minutes(delivery.seconds_to_block.median)))
                    (figure("95th percentile", minutes(delivery.seconds_to_block.p95)))
                    (figure("longest", minutes(delivery.seconds_to_block.worst)))
                    (figure("objects arrive after (median)", minutes(delivery.lag_seconds.median)))
                    (figure("a pass every", minutes(Some(delivery.schedule_seconds))))
                    @if delivery.not_blocked > 0 { (figure("found too late", delivery.not_blocked)) }
                }
                @if !times.is_empty() { (PreEscaped(charts::time_to_block(&times))) }
            }
        }
    }
}

fn detectors(replayed: &Replayed, insight: &Insight) -> Markup {
    let pirates = insight.labelled.get(&Label::Pirate).copied().unwrap_or(0);
    let silent: Vec<&str> = insight
        .detectors
        .iter()
        .filter(|ranking| ranking.scores.is_empty())
        .map(|ranking| ranking.detector.name.as_str())
        .collect();
    html! {
        section id="detectors" {
            h2 { "Detectors" }
            p class="note" {
                "Scores from 1 on are findings; below that, sessions that came at least half of the way (not of detectors that only observe). The curves run from the "
                "highest score down: the mark is where the config has the detector, the pale part what looser thresholds would add."
            }
            div class="cards" {
                @for ranking in insight.detectors.iter().filter(|ranking| !ranking.scores.is_empty()) {
                    (card(ranking, pirates, replayed.evaluation.as_ref().and_then(|e| e.detectors.get(&ranking.detector.name))))
                }
            }
            @if !silent.is_empty() { p class="note" { "Nobody came near to " (silent.join(", ")) "." } }
        }
    }
}

fn card(ranking: &Ranking, pirates: u64, score: Option<&Score>) -> Markup {
    let detector = &ranking.detector;
    html! {
        div class="card" {
            h3 { (detector.name) }
            p class="note" {
                (detector.family) ", " (detector.strength_override.unwrap_or(detector.strength).name()) ", window " (detector.window.to_string())
                @if let Some(score) = score {
                    ": found " (score.true_positives) " pirates and " (score.false_positives) " benign, precision " (ratio(score.precision)) ", recall " (ratio(score.recall))
                }
            }
            div class="charts" {
                @if let Some(points) = charts::precision_recall(ranking, pirates) { (PreEscaped(charts::curve(&points))) }
                (PreEscaped(charts::distribution(ranking)))
            }
        }
    }
}

fn timelines(insight: &Insight) -> Markup {
    html! {
        section id="timelines" {
            h2 { "Networks of sessions worth a look" }
            p class="note" { "A line is a network, a cell a minute in which it fetched new segments, the colour its country." }
            @for timeline in &insight.timelines {
                h3 { (printable(&timeline.session_id)) }
                p class="note" {
                    (timeline.why)
                    @if let Some(kind) = timeline.kind.as_deref().filter(|kind| !kind.is_empty()) { ", kind " (printable(kind)) }
                    @if let Some(revocation) = &timeline.revocation { ", by " (revocation.detectors.join(", ")) }
                }
                div class="wide" { (timeline.draw()) }
            }
        }
    }
}
