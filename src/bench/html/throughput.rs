//! Tokens per second of each backend, with the interval of the median.

use super::svg::{Anchor, Svg, colour, escape, number, tick, ticks};
use super::{backend, settings, test_name};
use crate::bench::{Report, Row};

const WIDTH: f64 = 760.0;
const LABELS: f64 = 250.0;
const RIGHT: f64 = 110.0;
const BAR: f64 = 22.0;

/// A chart for each model and test.
pub(super) fn charts(report: &Report, backends: &[String]) -> String {
    let mut groups: Vec<((&str, String), Vec<&Row>)> = Vec::new();
    for row in &report.rows {
        let key = (row.model.as_str(), test_name(row));
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((key, vec![row])),
        }
    }
    let charts = groups.into_iter().map(|((model, test), mut rows)| {
        rows.sort_by(|a, b| b.tokens_per_second.median.total_cmp(&a.tokens_per_second.median));
        let title = format!("{model}, {test}");
        format!("<h3>{}</h3>{}", escape(&title), chart(&title, &rows, backends))
    });
    charts.collect()
}

fn chart(title: &str, rows: &[&Row], backends: &[String]) -> String {
    let max = rows.iter().map(|row| row.tokens_per_second.max).fold(0.0, f64::max);
    let ticks = ticks(max);
    let last = ticks.last().copied().unwrap_or(1.0);
    let place = |value: f64| LABELS + value / last * (WIDTH - LABELS - RIGHT);
    let bottom = 8.0 + BAR * rows.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 44.0);
    for &value in &ticks {
        svg.line([place(value), 4.0, place(value), bottom], "grid");
        svg.text((place(value), bottom + 16.0), Anchor::Middle, "tick", &tick(value));
    }
    svg.text(((LABELS + WIDTH - RIGHT) / 2.0, bottom + 36.0), Anchor::Middle, "axis", "tokens per second");
    for (index, row) in rows.iter().enumerate() {
        let (y, rate) = (8.0 + BAR * index as f64, &row.tokens_per_second);
        let middle = y + BAR / 2.0 - 2.0;
        let share = row
            .limit_share
            .map_or_else(String::new, |share| format!(", {:.0} % of the limit ({})", 100.0 * share, row.limit));
        let tip = format!(
            "{}: median {} tokens/s, {} to {} with {:.0} %, {} repetitions{share}",
            settings(row),
            number(rate.median),
            number(rate.interval.low),
            number(rate.interval.high),
            100.0 * rate.interval.level,
            rate.n
        );
        svg.text((LABELS - 8.0, middle + 4.0), Anchor::End, "label", &settings(row));
        svg.rect([LABELS, y, place(rate.median) - LABELS, BAR - 5.0], &colour(backends, &backend(row)), &tip);
        let (low, high) = (place(rate.interval.low), place(rate.interval.high));
        svg.line([low, middle, high, middle], "whisker");
        svg.line([low, middle - 4.0, low, middle + 4.0], "whisker");
        svg.line([high, middle - 4.0, high, middle + 4.0], "whisker");
        let value = match row.limit_share {
            Some(share) => format!("{} ({:.0} %)", number(rate.median), 100.0 * share),
            None => number(rate.median),
        };
        svg.text((high.max(place(rate.median)) + 6.0, middle + 4.0), Anchor::Start, "value", &value);
    }
    let fastest = rows.first().map_or_else(String::new, |row| {
        format!("Fastest: {} with {} tokens per second", settings(row), number(row.tokens_per_second.median))
    });
    svg.finish(&format!("Tokens per second of {title}"), &fastest)
}
