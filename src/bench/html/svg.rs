//! Pieces of charts: escaped text, numbers, scales, and marks of SVG.

use std::fmt::Write as _;

/// A text as it may stand in HTML, in attributes too.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// A number with about three digits.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "unknown".into(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.995 || size == 0.0 => format!("{value:.2}"),
        size if size >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

/// A number for an axis: no digits that say nothing.
pub(super) fn tick(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Round values from 0 to at least `max`, four to eight of them.
pub(super) fn ticks(max: f64) -> Vec<f64> {
    let max = if max.is_finite() && max > 0.0 { max } else { 1.0 };
    let rough = max / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * power).find(|&step| step >= rough).unwrap_or(rough);
    (0..=(max / step).ceil() as usize).map(|i| i as f64 * step).collect()
}

/// Where a text is fixed.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing in the making. Its unit is a pixel when it is not scaled.
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Svg {
        Svg { width, height, body: String::new() }
    }

    /// A bar or swatch with a tip that is shown when it is pointed at.
    pub(super) fn rect(&mut self, [x, y, width, height]: [f64; 4], class: &str, tip: &str) {
        let (width, tip) = (width.max(0.0), tip_of(tip));
        let _ = write!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2" class="{class}">{tip}</rect>"#
        );
    }

    pub(super) fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], class: &str) {
        let _ = write!(self.body, r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#);
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], class: &str) {
        let places: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(self.body, r#"<polyline points="{}" class="{class}"/>"#, places.join(" "));
    }

    /// A round or square mark.
    pub(super) fn mark(&mut self, (x, y): (f64, f64), is_round: bool, class: &str, tip: &str) {
        let tip = tip_of(tip);
        let _ = match is_round {
            true => write!(self.body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="5" class="mark {class}">{tip}</circle>"#),
            false => write!(
                self.body,
                r#"<rect x="{:.1}" y="{:.1}" width="9" height="9" class="mark {class}">{tip}</rect>"#,
                x - 4.5,
                y - 4.5
            ),
        };
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let _ =
            write!(self.body, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}">{text}</text>"#);
    }

    /// A text along a line that rises by `angle` degrees.
    pub(super) fn along(&mut self, (x, y): (f64, f64), angle: f64, text: &str) {
        let text = escape(text);
        let _ = write!(
            self.body,
            r#"<text transform="translate({x:.1} {y:.1}) rotate({:.1})" dy="-6" class="value">{text}</text>"#,
            -angle
        );
    }

    /// A text that reads upwards, for a vertical axis.
    pub(super) fn upward(&mut self, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        let _ = write!(
            self.body,
            r#"<text transform="translate({x:.1} {y:.1}) rotate(-90)" text-anchor="middle" class="axis">{text}</text>"#
        );
    }

    /// The drawing, with what a screen reader says of it.
    pub(super) fn finish(self, title: &str, description: &str) -> String {
        let Svg { width, height, body } = self;
        let (title, description) = (escape(title), escape(description));
        format!(
            r#"<div class="scroll"><svg viewBox="0 0 {width:.0} {height:.0}" role="img" aria-label="{title}. {description}">{body}</svg></div>"#
        )
    }
}

fn tip_of(tip: &str) -> String {
    if tip.is_empty() { String::new() } else { format!("<title>{}</title>", escape(tip)) }
}

/// The colours of a legend: a class for each name.
pub(super) fn legend(names: &[String]) -> String {
    let mut out = String::from(r#"<ul class="legend">"#);
    for (index, name) in names.iter().enumerate() {
        let _ = write!(out, r#"<li><span class="swatch s{}"></span>{}</li>"#, index % COLOURS, escape(name));
    }
    out + "</ul>"
}

/// Colours of the style sheet.
pub(super) const COLOURS: usize = 8;

/// The class of a name's colour.
pub(super) fn colour(names: &[String], name: &str) -> String {
    format!("s{}", names.iter().position(|known| known == name).unwrap_or(0) % COLOURS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_leave_their_place() {
        assert_eq!(escape(r#"<b a="1">&'"#), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;");
        let mut svg = Svg::new(1.0, 1.0);
        svg.text((0.0, 0.0), Anchor::Start, "label", "</text><script>");
        svg.rect([0.0; 4], "s0", "<script>");
        assert!(!svg.finish("<script>", "\"").contains("<script>"));
    }

    #[test]
    fn axes_have_round_values_up_to_the_largest() {
        assert_eq!(ticks(9.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        for max in [0.003, 1.0, 47.3, 99.9, 12_345.0, 0.0, f64::NAN] {
            let ticks = ticks(max);
            assert!(ticks.len() >= 4 && ticks.len() <= 9, "{max}: {ticks:?}");
            assert!(max.is_nan() || *ticks.last().expect("some") >= max);
        }
        assert_eq!([0.0, 0.25, 1.0, 40.0].map(tick), ["0", "0.25", "1", "40"]);
        assert_eq!([0.0, 0.04, 1.234, 12.34, 123.4].map(number), ["0.00", "0.0400", "1.23", "12.3", "123"]);
        assert_eq!(number(f64::NAN), "unknown");
    }
}
