//! Tokens per second over the tokens that are in the cache already.

use super::svg::{Anchor, COLOURS, Svg, colour, legend, number, tick, ticks};
use super::{settings, test_kind};
use crate::bench::{Report, Row};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 48.0;

/// The chart with its legend: a line for each combination that was measured at several depths. `None` if there is none.
pub(super) fn chart(report: &Report) -> Option<String> {
    let mut lines: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in report.rows.iter().filter(|row| row.test == "tg") {
        let name = format!("{} {}, {}", row.model, test_kind(row), settings(row));
        match lines.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rows)) => rows.push(row),
            None => lines.push((name, vec![row])),
        }
    }
    for (_, rows) in &mut lines {
        // Of a depth that was measured in two states of the machine, the state with more repetitions.
        rows.sort_by_key(|row| (row.depth, std::cmp::Reverse(row.tokens_per_second.n)));
        rows.dedup_by_key(|row| row.depth);
    }
    lines.retain(|(_, rows)| rows.first().map(|row| row.depth) < rows.last().map(|row| row.depth));
    // Those that there are colours for.
    let fastest = |rows: &[&Row]| rows.iter().map(|row| row.tokens_per_second.median).fold(0.0, f64::max);
    lines.sort_by(|(_, a), (_, b)| fastest(b).total_cmp(&fastest(a)));
    let all = lines.len();
    lines.truncate(COLOURS);
    let rows = || lines.iter().flat_map(|(_, rows)| rows.iter());
    let across = ticks(rows().map(|row| row.depth as f64).fold(0.0, f64::max));
    let up = ticks(rows().map(|row| row.tokens_per_second.interval.high).fold(0.0, f64::max));
    let (x_last, y_last) = (*across.last()?, *up.last()?);
    let x_of = |depth: f64| LEFT + depth / x_last * (WIDTH - LEFT - RIGHT);
    let y_of = |rate: f64| HEIGHT - BOTTOM - rate / y_last * (HEIGHT - BOTTOM - TOP);
    let mut svg = Svg::new(WIDTH, HEIGHT);
    for &x in &across {
        svg.text((x_of(x), HEIGHT - BOTTOM + 16.0), Anchor::Middle, "tick", &tick(x));
    }
    for &y in &up {
        svg.line([LEFT, y_of(y), WIDTH - RIGHT, y_of(y)], "grid");
        svg.text((LEFT - 6.0, y_of(y) + 4.0), Anchor::End, "tick", &tick(y));
    }
    svg.text(((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0), Anchor::Middle, "axis", "tokens in the cache before");
    svg.upward((16.0, (TOP + HEIGHT - BOTTOM) / 2.0), "tokens per second");
    let names: Vec<String> = lines.iter().map(|(name, _)| name.clone()).collect();
    for (name, rows) in &lines {
        let class = colour(&names, name);
        let places: Vec<(f64, f64)> =
            rows.iter().map(|row| (x_of(row.depth as f64), y_of(row.tokens_per_second.median))).collect();
        svg.path(&places, &format!("line {class}"));
        for (row, &(x, y)) in rows.iter().zip(&places) {
            let interval = row.tokens_per_second.interval;
            svg.line([x, y_of(interval.low), x, y_of(interval.high)], "whisker");
            let tip = format!("{name} @ {}: {} tokens/s", row.depth, number(row.tokens_per_second.median));
            svg.mark((x, y), true, &class, &tip);
        }
    }
    let what = format!("{} combinations at several depths", lines.len());
    let note =
        if all > COLOURS { format!("<p>The {COLOURS} fastest of {all} combinations.</p>") } else { String::new() };
    (!lines.is_empty()).then(|| note + &legend(&names) + &svg.finish("Tokens per second over depth", &what))
}
