//! Where the time of a token goes: a bar for each profile, cut by op.

use super::svg::{Anchor, COLOURS, Svg, colour, legend, number};
use crate::bench::Profile;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 8.0;
const RIGHT: f64 = 100.0;
const ROW: f64 = 48.0;

/// What ops are called that are too many, or too short, for a colour of their own.
const OTHER: &str = "other";

/// The chart with its legend.
pub(super) fn chart(profiles: &[Profile]) -> String {
    // Shares count, so that slow backends do not decide which ops matter.
    let mut shares: Vec<(String, f64)> = Vec::new();
    for profile in profiles {
        let ops = profile.by_op();
        let total: f64 = ops.iter().map(|(_, us)| us).sum();
        for (name, us) in ops {
            let share = us / total.max(f64::MIN_POSITIVE);
            match shares.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += share,
                None => shares.push((name, share)),
            }
        }
    }
    let mut ranked = shares.clone();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let most = if ranked.len() > COLOURS { COLOURS - 1 } else { COLOURS };
    let kept: Vec<&str> = ranked.iter().take(most).map(|(name, _)| name.as_str()).collect();
    let mut names: Vec<String> =
        shares.iter().map(|(name, _)| name.clone()).filter(|n| kept.contains(&n.as_str())).collect();
    if ranked.len() > most {
        names.push(OTHER.to_owned());
    }
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
        let ops = profile.by_op();
        let total: f64 = ops.iter().map(|(_, us)| us).sum::<f64>().max(f64::MIN_POSITIVE);
        let mut at = 0.0;
        for name in &names {
            let is_of = |op: &str| if name == OTHER { !kept.contains(&op) } else { op == name };
            let us: f64 = ops.iter().filter(|(op, _)| is_of(op)).map(|(_, us)| us).sum();
            let (from, to) = (place(at / total), place((at + us) / total));
            if us > 0.0 {
                let tip = format!("{name}: {} ms of a token, {:.1} %", number(us / 1e3), 100.0 * us / total);
                svg.rect([from, y + 22.0, to - from - 1.0, 18.0], &colour(&names, name), &tip);
            }
            at += us;
        }
        svg.text((place(1.0) + 8.0, y + 36.0), Anchor::Start, "value", &format!("{} ms", number(total / 1e3)));
    }
    let first = profiles.iter().map(|profile| {
        let ops = profile.by_op();
        let largest = ops.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        largest.map_or_else(String::new, |(name, us)| {
            format!("{}: most of it {name}, {} ms", profile.name, number(us / 1e3))
        })
    });
    legend(&names) + &svg.finish("Time of a token by op", &first.collect::<Vec<_>>().join("; "))
}
