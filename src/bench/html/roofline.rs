//! The roofline: what memory and multipliers allow, and what was reached.

use super::svg::{Anchor, Svg, colour, number};
use super::{backend, settings, test_name};
use crate::bench::{Report, Row};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 48.0;

/// Room for the name of a slope.
const LABEL: f64 = 130.0;

/// Tokens of a pass at most: so many share the weights that are read once.
const CHUNK: usize = 512;

/// A measured row: multiply-adds for each byte that must be read, and 10^9 of them per second.
fn point(row: &Row) -> Option<(f64, f64)> {
    let (bytes, macs) = (row.bytes_per_token? as f64, row.macs_per_token? as f64);
    // Tokens of a prompt share what is read.
    let shared = row.n_prompt.clamp(1, CHUNK) as f64;
    let place = (macs * shared / bytes, row.tokens_per_second.median * macs / 1e9);
    (place.0 > 0.0 && place.1 > 0.0 && place.0.is_finite()).then_some(place)
}

/// A limit: GB/s and 10^9 multiply-adds per second, and what it is of.
struct Roof {
    name: String,
    read: f64,
    int8: Option<f64>,
}

fn roofs(report: &Report) -> Vec<Roof> {
    let machine = &report.machine;
    let int8 = machine.int8_gmacs.iter().max_by(|a, b| a.1.total_cmp(b.1));
    let last = machine.read_gbps.keys().next_back();
    let mut roofs: Vec<Roof> = machine
        .read_gbps
        .iter()
        .map(|(threads, &read)| {
            // The rates of instruction sets are those of the most threads.
            let int8 = int8.filter(|_| Some(threads) == last);
            let isa = int8.map_or_else(String::new, |(isa, _)| format!(", {isa}"));
            let s = if *threads == 1 { "" } else { "s" };
            Roof { name: format!("{threads} thread{s}{isa}"), read, int8: int8.map(|(_, &rate)| rate) }
        })
        .collect();
    roofs.extend(machine.gpu.iter().map(|g| Roof {
        name: g.device.clone(),
        read: g.read_gbps,
        int8: Some(g.int8_gmacs),
    }));
    roofs
}

/// The chart.
pub(super) fn chart(report: &Report, backends: &[String]) -> String {
    let points: Vec<(&Row, (f64, f64))> = report.rows.iter().filter_map(|row| Some((row, point(row)?))).collect();
    let roofs = roofs(report);
    let xs = || points.iter().map(|(_, (x, _))| *x);
    let ys = || points.iter().map(|(_, (_, y))| *y).chain(roofs.iter().filter_map(|roof| roof.int8));
    // Whole powers of ten, with room for the knee of each roof.
    let knees = || roofs.iter().filter_map(|roof| Some(roof.int8? / roof.read));
    let low = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min).log10().floor();
    let high = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max).max(f64::MIN_POSITIVE).log10();
    let (x0, x1) = (low(&mut xs()), high(&mut xs().chain(knees())).ceil());
    let (y0, y1) = (low(&mut ys()), high(&mut ys()).ceil());
    let x_of = |x: f64| LEFT + (x.log10() - x0) / (x1 - x0).max(1.0) * (WIDTH - LEFT - RIGHT);
    let y_of = |y: f64| HEIGHT - BOTTOM - (y.log10() - y0) / (y1 - y0).max(1.0) * (HEIGHT - BOTTOM - TOP);
    let mut svg = Svg::new(WIDTH, HEIGHT);
    let powers = |from: f64, to: f64| (from as i32..=to.max(from + 1.0) as i32).map(|power| 10f64.powi(power));
    for x in powers(x0, x1) {
        svg.line([x_of(x), TOP, x_of(x), HEIGHT - BOTTOM], "grid");
        svg.text((x_of(x), HEIGHT - BOTTOM + 16.0), Anchor::Middle, "tick", &power_text(x));
    }
    for y in powers(y0, y1) {
        svg.line([LEFT, y_of(y), WIDTH - RIGHT, y_of(y)], "grid");
        svg.text((LEFT - 6.0, y_of(y) + 4.0), Anchor::End, "tick", &power_text(y));
    }
    let x_middle = (LEFT + WIDTH - RIGHT) / 2.0;
    svg.text((x_middle, HEIGHT - 8.0), Anchor::Middle, "axis", "multiply-adds per byte that must be read");
    svg.upward((16.0, (TOP + HEIGHT - BOTTOM) / 2.0), "G multiply-adds per second");
    let (left, right, floor) = (10f64.powf(x0), 10f64.powf(x1.max(x0 + 1.0)), 10f64.powf(y0));
    // How steep a slope is where both scales are logarithmic.
    let angle = (y_of(1.0) - y_of(10.0)).atan2(x_of(10.0) - x_of(1.0)).to_degrees();
    for (index, roof) in roofs.iter().enumerate() {
        let top = roof.int8.unwrap_or(10f64.powf(y1));
        let start = left.max(floor / roof.read);
        let knee = (top / roof.read).clamp(start, right);
        svg.path(&[(x_of(start), y_of(start * roof.read)), (x_of(knee), y_of(knee * roof.read))], "roof");
        if let Some(int8) = roof.int8 {
            svg.line([x_of(knee), y_of(int8), x_of(right), y_of(int8)], "roof");
            svg.text(
                (WIDTH - RIGHT - 4.0, y_of(int8) - 6.0),
                Anchor::End,
                "value",
                &format!("{}: {} G", roof.name, number(int8)),
            );
        }
        // The name of a slope stands along it, behind those of others, which may be as steep and in the same place.
        let x = start * 10f64.powf(LABEL * (0.1 + index as f64) / (x_of(10.0) - x_of(1.0)));
        let name = roof.name.split(',').next().unwrap_or_default();
        let label = format!("{name}: {} GB/s", number(roof.read));
        svg.along((x_of(x), y_of(x * roof.read)), angle, &label);
    }
    for (row, (x, y)) in &points {
        let tip = format!(
            "{}, {}: {} multiply-adds per byte, {} G per second",
            test_name(row),
            settings(row),
            number(*x),
            number(*y)
        );
        svg.mark((x_of(*x), y_of(*y)), row.test == "tg", &colour(backends, &backend(row)), &tip);
    }
    let what = format!("{} measured points below the limits of memory and multipliers", points.len());
    svg.finish("Roofline", &what)
}

fn power_text(value: f64) -> String {
    if (0.009..10_000.0).contains(&value) { format!("{value}") } else { format!("{value:e}") }
}
