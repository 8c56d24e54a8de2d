//! Charts with axes, as SVG. Their texts are numbers and our own words.

use chrono::TimeDelta;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::{NEAR, Ranking};
use crate::replay::labels::Label;
use crate::replay::sweep::Swept;

type Drawn = Result<(), Box<dyn std::error::Error>>;

const PIRATE: RGBColor = RGBColor(213, 94, 0);
const BENIGN: RGBColor = RGBColor(0, 114, 178);
const GREY: RGBColor = RGBColor(130, 130, 130);
const CHOSEN: RGBColor = RGBColor(204, 0, 0);
const FONT: &str = "sans-serif";

/// A drawing; what went wrong stands in its place, as a page without one chart is better than none.
fn svg(size: (u32, u32), draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn) -> String {
    let mut text = String::new();
    let drawn = {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE).map_err(Into::into).and_then(|()| draw(&root)).and_then(|()| Ok(root.present()?))
    };
    match drawn {
        Ok(()) => text,
        Err(error) => {
            tracing::warn!("a chart of the report cannot be drawn: {error}");
            String::new()
        }
    }
}

/// Precision over recall as the score that is asked for falls: a point for each score that a labelled session has. None
/// without a labelled pirate.
pub fn precision_recall(ranking: &Ranking, pirates: u64) -> Option<Vec<(f64, f64, f64)>> {
    let mut points: Vec<(f64, f64, f64)> = Vec::new();
    let (mut right, mut wrong) = (0u64, 0u64);
    for (score, label) in &ranking.scores {
        match label {
            Some(Label::Pirate) => right += 1,
            Some(Label::Benign) => wrong += 1,
            _ => continue,
        }
        let point = (right as f64 / pirates.max(1) as f64, right as f64 / (right + wrong) as f64, *score);
        match points.last_mut() {
            Some(last) if last.2 == *score => *last = point,
            _ => points.push(point),
        }
    }
    (pirates > 0 && !points.is_empty()).then_some(points)
}

/// The curve of a detector; the mark is where the config has it.
pub fn curve(points: &[(f64, f64, f64)]) -> String {
    svg((300, 210), |root| {
        let mut chart = ChartBuilder::on(root)
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(42)
            .build_cartesian_2d(0.0..1.03f64, 0.0..1.05f64)?;
        chart
            .configure_mesh()
            .x_labels(5)
            .y_labels(5)
            .x_desc("recall")
            .y_desc("precision")
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 11))
            .axis_desc_style((FONT, 12))
            .draw()?;
        let found = |point: &&(f64, f64, f64)| point.2 >= 1.0;
        let line = |points: Vec<(f64, f64)>, style: ShapeStyle| LineSeries::new(points, style);
        let taken: Vec<(f64, f64)> = points.iter().filter(found).map(|(x, y, _)| (*x, *y)).collect();
        let beyond: Vec<(f64, f64)> = taken
            .last()
            .copied()
            .into_iter()
            .chain(points.iter().filter(|point| !found(point)).map(|(x, y, _)| (*x, *y)))
            .collect();
        chart.draw_series(line(beyond, BENIGN.mix(0.35).stroke_width(2)))?;
        chart.draw_series(line(taken.clone(), BENIGN.stroke_width(2)))?;
        chart.draw_series(taken.last().map(|point| Circle::new(*point, 4, CHOSEN.filled())))?;
        Ok(())
    })
}

/// Scores as the distribution shows them: double the score, one further.
struct Scores;

const SCORES: std::ops::Range<f64> = -1.0..4.0;
const BINS_PER_DOUBLING: f64 = 4.0;

impl Ranged for Scores {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - SCORES.start) / (SCORES.end - SCORES.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        vec![-1.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    }

    fn range(&self) -> std::ops::Range<f64> {
        SCORES
    }
}

impl ValueFormatter<f64> for Scores {
    fn format_ext(&self, value: &f64) -> String {
        format!("{}", value.exp2())
    }
}

/// How many sessions have which score, a lane for each label; each lane is as high as its highest bar.
pub fn distribution(ranking: &Ranking) -> String {
    let lanes: Vec<(&str, Option<Label>, RGBColor)> = [
        ("pirate", Some(Label::Pirate), PIRATE),
        ("benign", Some(Label::Benign), BENIGN),
        ("grey", Some(Label::Grey), GREY),
        ("no label", None, GREY),
    ]
    .into_iter()
    .filter(|(_, label, _)| ranking.scores.iter().any(|(_, known)| known == label))
    .collect();
    svg((420, 210), |root| {
        let height = lanes.len().max(1) as f64;
        let mut chart =
            ChartBuilder::on(root).margin(8).x_label_area_size(32).build_cartesian_2d(Scores, 0.0..height)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_desc("score: 1 is the threshold")
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 11))
            .axis_desc_style((FONT, 12))
            .draw()?;
        for (place, (name, label, colour)) in lanes.iter().enumerate() {
            let base = height - 1.0 - place as f64;
            let bins = bins(ranking.scores.iter().filter(|(_, known)| known == label).map(|(score, _)| *score));
            let most = bins.iter().copied().max().unwrap_or(1).max(1) as f64;
            let bars = bins.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bin, count)| {
                let left = SCORES.start + bin as f64 / BINS_PER_DOUBLING;
                let top = base + 0.72 * *count as f64 / most;
                Rectangle::new([(left, base), (left + 0.9 / BINS_PER_DOUBLING, top)], colour.filled())
            });
            chart.draw_series(bars)?;
            let all: u64 = bins.iter().sum();
            let words = format!("{name}: {all} sessions, highest bar {most}");
            chart.draw_series([Text::new(words, (-0.97, base + 0.93), (FONT, 11).into_font().color(colour))])?;
        }
        chart.draw_series([PathElement::new([(0.0, 0.0), (0.0, height)], CHOSEN.stroke_width(1))])?;
        Ok(())
    })
}

/// Sessions by score; what lies beyond the ends is in the first and the last bin.
fn bins(scores: impl Iterator<Item = f64>) -> Vec<u64> {
    let count = ((SCORES.end - SCORES.start) * BINS_PER_DOUBLING) as usize;
    let mut bins = vec![0; count];
    for score in scores {
        let place = ((score.max(NEAR).log2() - SCORES.start) * BINS_PER_DOUBLING) as usize;
        bins[place.min(count - 1)] += 1;
    }
    bins
}

/// Which share of the blocked sessions was blocked how soon.
pub fn time_to_block(times: &[TimeDelta]) -> String {
    let mut minutes: Vec<f64> = times.iter().map(|time| time.num_seconds() as f64 / 60.0).collect();
    minutes.sort_by(f64::total_cmp);
    let most = minutes.last().copied().unwrap_or(1.0).max(1.0);
    svg((720, 240), |root| {
        let mut chart = ChartBuilder::on(root)
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(46)
            .build_cartesian_2d(0.0..most * 1.02, 0.0..1.05f64)?;
        chart
            .configure_mesh()
            .x_desc("minutes from the first shared minute to the block")
            .y_desc("share of sessions")
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 11))
            .axis_desc_style((FONT, 12))
            .draw()?;
        let mut steps = vec![(0.0, 0.0)];
        for (place, minute) in minutes.iter().enumerate() {
            let before = place as f64 / minutes.len() as f64;
            steps.extend([(*minute, before), (*minute, (place + 1) as f64 / minutes.len() as f64)]);
        }
        chart.draw_series(LineSeries::new(steps, BENIGN.stroke_width(2)))?;
        Ok(())
    })
}

/// Precision, recall and F1 over the values of a sweep; none where there are no numbers to draw, or several sweeps.
pub fn sweep(rows: &[Swept]) -> Option<String> {
    let value = |row: &Swept| match row.settings.len() {
        1 => row.settings.values().next()?.as_f64(),
        _ => None,
    };
    let values: Option<Vec<f64>> = rows.iter().map(value).collect();
    let values = values.filter(|values| values.len() > 1)?;
    let (low, high) = (values[0], *values.last()?);
    let series = |of: fn(&Swept) -> Option<f64>| -> Vec<(f64, f64)> {
        values.iter().zip(rows).filter_map(|(value, row)| Some((*value, of(row)?))).collect()
    };
    let lines = [
        ("precision", BENIGN, series(|row| row.overall?.precision)),
        ("recall", PIRATE, series(|row| row.overall?.recall)),
        ("F1", BLACK, series(|row| row.overall?.f1)),
    ];
    if lines.iter().all(|(_, _, points)| points.is_empty()) {
        return None;
    }
    Some(svg((720, 260), |root| {
        let mut chart = ChartBuilder::on(root)
            .margin(8)
            .margin_right(30)
            .x_label_area_size(30)
            .y_label_area_size(46)
            .build_cartesian_2d(low..high, 0.0..1.05f64)?;
        chart.configure_mesh().light_line_style(TRANSPARENT).label_style((FONT, 11)).draw()?;
        for (name, colour, points) in lines {
            chart
                .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)).point_size(3))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.9))
            .border_style(GREY)
            .label_font((FONT, 12))
            .draw()?;
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::file::DetectorFile;

    fn ranking(scores: &[(f64, Option<Label>)]) -> Ranking {
        let text = "-- [detector]\n-- description = \"d\"\n-- family = \"f\"\n-- strength = \"medium\"\n-- window = \"30m\"\n-- every = \"5m\"\n-- ttl = \"1h\"\n-- scope = \"session\"\n-- false_positives = \"none\"\nSELECT session_id, 1.0 AS score FROM activity";
        let detector = DetectorFile::parse("d", "d.sql", text).unwrap().with_settings(&Default::default()).unwrap();
        Ranking { detector, scores: scores.to_vec() }
    }

    #[test]
    fn precision_and_recall_as_the_score_falls() {
        let (pirate, benign) = (Some(Label::Pirate), Some(Label::Benign));
        let scores = [(4.0, pirate), (2.0, pirate), (2.0, benign), (1.5, None), (0.7, pirate), (0.6, benign)];
        let points = precision_recall(&ranking(&scores), 4).unwrap();
        assert_eq!(points, [(0.25, 1.0, 4.0), (0.5, 2.0 / 3.0, 2.0), (0.75, 0.75, 0.7), (0.75, 0.6, 0.6)]);
        assert_eq!(precision_recall(&ranking(&scores), 0), None);
        assert_eq!(precision_recall(&ranking(&[(2.0, None)]), 4), None);
    }

    #[test]
    fn every_session_is_in_a_bin() {
        let bins = bins([0.1, 0.5, 0.999, 1.0, 1.1, 15.9, 1_000.0].into_iter());
        assert_eq!((bins.len(), bins.iter().sum::<u64>()), (20, 7));
        assert_eq!((bins[0], bins[3], bins[4], bins[19]), (2, 1, 2, 2));
    }
}
