//! Where the time of a token goes: a bar for each profile, cut by op.

use super::svg::{Anchor, COLOURS, Svg, colour, legend, number};
use crate::bench::Profile;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 18.0;
const RIGHT: f64 = 100.0;
const ROW: f64 = 48.0;

/// The kinds of ops, in the order of a pass, and which ops of the backends are of each. What a backend fuses is of the kind
/// that takes most of it.
const KINDS: [(&str, &[&str]); COLOURS] = [
    ("q, k, v", &["q, k, v", "qkv", "norm+qkv"]),
    ("gate, up", &["gate, up", "gate·up", "norm+gate·up"]),
    ("attention", &["attention", "combine"]),
    ("rope, cache", &["rope, cache"]),
    ("o, down", &["o", "down", "o, down"]),
    ("head", &["head", "final norm", "int8 head", "classes", "candidates", "rescore", "answer", "best"]),
    ("norm, quantize", &["norm, quantize", "gating, quantize", "quantize"]),
    ("other", &[]),
];

/// Microseconds of a token by kind of op.
fn by_kind(profile: &Profile) -> [f64; COLOURS] {
    let mut sums = [0.0; COLOURS];
    for (name, us) in profile.by_op() {
        let kind = KINDS.iter().position(|(_, ops)| ops.contains(&name.as_str()));
        sums[kind.unwrap_or(COLOURS - 1)] += us;
    }
    sums
}

/// The chart with its legend.
pub(super) fn chart(profiles: &[Profile]) -> String {
    let names: Vec<String> = KINDS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let place = |share: f64| LEFT + share * (WIDTH - LEFT - RIGHT);
    let bottom = ROW * profiles.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 44.0);
    for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
        svg.line([place(percent / 100.0), 18.0, place(percent / 100.0), bottom + 2.0], "grid");
        svg.text((place(percent / 100.0), bottom + 16.0), Anchor::Middle, "tick", &format!("{percent:.0} %"));
    }
    svg.text(((LEFT + WIDTH - RIGHT) / 2.0, bottom + 36.0), Anchor::Middle, "axis", "share of the time of a token");
    for (index, profile) in profiles.iter().enumerate() {
        let y = ROW * index as f64;
        svg.text((LEFT, y + 16.0), Anchor::Start, "label", &profile.name);
        let sums = by_kind(profile);
        let total = sums.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let mut at = 0.0;
        for (name, us) in names.iter().zip(sums) {
            let (from, to) = (place(at / total), place((at + us) / total));
            if us > 0.0 {
                let tip = format!("{name}: {} ms of a token, {:.1} %", number(us / 1e3), 100.0 * us / total);
                svg.rect([from, y + 22.0, to - from - 1.0, 18.0], &colour(&names, name), &tip);
            }
            at += us;
        }
        svg.text((place(1.0) + 8.0, y + 36.0), Anchor::Start, "value", &format!("{} ms", number(total / 1e3)));
    }
    let largest = profiles.iter().map(|profile| {
        let sums = by_kind(profile);
        let kind = (0..COLOURS).max_by(|&a, &b| sums[a].total_cmp(&sums[b])).unwrap_or(0);
        format!("{}: most of it {}, {} ms", profile.name, KINDS[kind].0, number(sums[kind] / 1e3))
    });
    legend(&names) + &svg.finish("Time of a token by op", &largest.collect::<Vec<_>>().join("; "))
}
