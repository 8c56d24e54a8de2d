//! Which networks used a session when, minute by minute: a drawing.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use crate::replay::Revocation;
use crate::text::printable;

/// Networks with a line of their own; the others share the last one.
const LINES: usize = 12;

/// Minutes that are shown at most, from the first one on.
const MINUTES: i64 = 360;

/// Widths and heights in pixels.
const LABELS: f64 = 300.0;
const WIDTH: f64 = 980.0;
const LINE: f64 = 16.0;
const HEAD: f64 = 34.0;
const TICK: f64 = 36.0;

/// Of countries, the first seen first; of the rest the last one. Told apart by people who see colours otherwise, too (Okabe
/// and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777"];

#[derive(Debug, Deserialize)]
pub struct TimelineRow {
    network: Option<String>,
    country: Option<String>,
    asn: Option<i64>,
    network_type: Option<String>,
    minute: DateTime<Utc>,
    segments: i64,
}

/// What is drawn of a session.
#[derive(Debug)]
pub struct Timeline {
    pub session_id: String,
    pub why: &'static str,
    pub kind: Option<String>,
    pub revocation: Option<Revocation>,
    start: DateTime<Utc>,
    minutes: i64,
    /// More than are shown.
    cut: bool,
    lines: Vec<Line>,
    countries: Vec<Option<String>>,
}

#[derive(Debug)]
struct Line {
    name: String,
    country: Option<String>,
    /// New segments by minute after the start.
    minutes: BTreeMap<i64, i64>,
}

impl Timeline {
    pub fn new(
        session_id: &str,
        why: &'static str,
        kind: Option<String>,
        revocation: Option<&Revocation>,
        rows: Vec<TimelineRow>,
    ) -> Option<Timeline> {
        let start = rows.iter().map(|row| row.minute).min()?;
        let end = rows.iter().map(|row| row.minute).max()?;
        let all = (end - start).num_minutes() + 1;
        let mut countries: Vec<Option<String>> = Vec::new();
        let mut lines: Vec<Line> = Vec::new();
        let mut known: HashMap<Option<String>, usize> = HashMap::new();
        for row in rows {
            if !countries.contains(&row.country) {
                countries.push(row.country.clone());
            }
            let place = *known.entry(row.network.clone()).or_insert_with(|| {
                lines.push(Line { name: name(&row), country: row.country.clone(), minutes: BTreeMap::new() });
                lines.len() - 1
            });
            *lines[place].minutes.entry((row.minute - start).num_minutes()).or_default() += row.segments;
        }
        // Those that fetched most, in order of their coming.
        let mut by_size: Vec<i64> = lines.iter().map(|line| -line.minutes.values().sum::<i64>()).collect();
        by_size.sort_unstable();
        if lines.len() > LINES {
            let least = by_size[LINES - 2];
            let mut shown = Vec::new();
            let mut rest = Line { name: String::new(), country: None, minutes: BTreeMap::new() };
            let mut others = 0;
            for line in lines {
                if shown.len() < LINES - 1 && -line.minutes.values().sum::<i64>() <= least {
                    shown.push(line);
                } else {
                    others += 1;
                    for (minute, segments) in line.minutes {
                        *rest.minutes.entry(minute).or_default() += segments;
                    }
                }
            }
            rest.name = format!("{others} other networks");
            shown.push(rest);
            lines = shown;
        }
        Some(Timeline {
            session_id: session_id.to_owned(),
            why,
            kind,
            revocation: revocation.cloned(),
            start,
            minutes: all.min(MINUTES),
            cut: all > MINUTES,
            lines,
            countries,
        })
    }

    pub fn draw(&self) -> Markup {
        let height = HEAD + LINE * self.lines.len() as f64 + 6.0;
        let cell = (WIDTH - LABELS) / self.minutes as f64;
        let x = |minute: i64| LABELS + cell * minute as f64;
        let y = |line: usize| HEAD + LINE * line as f64;
        let most = self.lines.iter().flat_map(|line| line.minutes.values()).copied().max().unwrap_or(1).max(1);
        let colour = |country: &Option<String>| {
            let place = self.countries.iter().position(|known| known == country).unwrap_or(COLOURS.len());
            COLOURS[place.min(COLOURS.len() - 1)]
        };
        let step = [1, 2, 5, 10, 15, 30, 60].into_iter().find(|step| self.minutes / step <= 10).unwrap_or(60);
        let first = (step - self.start.timestamp().div_euclid(60).rem_euclid(step)) % step;
        let ticks: Vec<i64> =
            (0..).map(|place| first + place * step).take_while(|tick| x(*tick) + TICK < WIDTH).collect();
        let marks = self.revocation.iter().flat_map(|revocation| {
            [
                (revocation.shared_at, "shared", "#333333"),
                (Some(revocation.decided_at), "decided", "#aa3377"),
                (revocation.blocked_at, "blocked", "#cc0000"),
            ]
        });
        let marks: Vec<(i64, &str, &str)> = marks
            .filter_map(|(time, what, colour)| Some(((time? - self.start).num_minutes(), what, colour)))
            .filter(|(minute, ..)| (0..=self.minutes).contains(minute))
            .collect();
        html! {
            svg class="timeline" viewBox={ "0 0 " (WIDTH) " " (height) } width=(WIDTH) height=(height) role="img" {
                title { "Networks of " (printable(&self.session_id)) }
                @for tick in ticks {
                    text x=(x(tick)) y="12" class="tick" {
                        ((self.start + TimeDelta::minutes(tick)).format("%H:%M"))
                    }
                    line x1=(x(tick)) y1="16" x2=(x(tick)) y2=(height) class="grid" {}
                }
                @for (place, line) in self.lines.iter().enumerate() {
                    text x="0" y=(y(place) + 12.0) class="network" { (line.name) }
                    @for (minute, segments) in line.minutes.range(..self.minutes) {
                        rect x=(x(*minute)) y=(y(place) + 2.0) width=(cell.max(1.0)) height=(LINE - 4.0)
                            fill=(colour(&line.country))
                            opacity=(format!("{:.2}", 0.35 + 0.65 * *segments as f64 / most as f64)) {
                            title {
                                (line.name) ", " ((self.start + TimeDelta::minutes(*minute)).format("%H:%M")) ": " (segments)
                                " new segments"
                            }
                        }
                    }
                }
                @for (place, (minute, what, colour)) in marks.into_iter().enumerate() {
                    line x1=(x(minute)) y1="16" x2=(x(minute)) y2=(height) stroke=(colour) stroke-width="1.5"
                        stroke-dasharray="4 2" {}
                    text x=((x(minute) + 3.0).min(WIDTH - 50.0)) y=(22.0 + 8.0 * (place % 2) as f64) class="mark" fill=(colour) { (what) }
                }
            }
            @if self.cut {
                p class="note" { "Only the first " (MINUTES) " minutes are shown." }
            }
        }
    }
}

fn name(row: &TimelineRow) -> String {
    let mut name = printable(row.network.as_deref().unwrap_or("no address")).into_owned();
    if let Some(country) = &row.country {
        name = format!("{name} {}", printable(country));
    }
    if let Some(asn) = row.asn {
        name = format!("{name} AS{asn}");
    }
    if let Some(kind) = &row.network_type {
        name = format!("{name} {}", printable(kind));
    }
    name
}
