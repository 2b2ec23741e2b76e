//! A report as one page that needs nothing else: charts, then the numbers.

mod depth;
mod ops;
mod roofline;
mod svg;
mod throughput;

use std::fmt::Write as _;

use super::{Profile, Report, Row};
use svg::{escape, legend, number};

const STYLE: &str = include_str!("style.css");

/// The page.
pub fn html(report: &Report, profiles: &[Profile]) -> String {
    let mut backends: Vec<String> = Vec::new();
    for row in &report.rows {
        if !backends.contains(&backend(row)) {
            backends.push(backend(row));
        }
    }
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>sterna bench</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>sterna bench</h1>\n"
    );
    out += &machine(report);
    section(
        &mut out,
        "Throughput by backend",
        &format!(
            "<p>Medians; the whiskers are the interval that holds the median with the probability in the table below. In brackets, the \
         share of what the machine can do: reading for generation (tg), int8 multiply-adds for prompts (pp).</p>{}{}",
            legend(&backends),
            throughput::charts(report, &backends)
        ),
    );
    if !profiles.is_empty() {
        section(
            &mut out,
            "Time by op",
            &format!(
                "<p>One run of each combination, with every op timed; on the right, the time of a token.</p>{}",
                ops::chart(profiles)
            ),
        );
    }
    section(
        &mut out,
        "Roofline",
        &format!(
            "<p>Lines are limits that were measured in the same run. Circles are generation, squares prompts.</p>{}{}",
            legend(&backends),
            roofline::chart(report, &backends)
        ),
    );
    if let Some(chart) = depth::chart(report) {
        section(&mut out, "Generation over depth", &chart);
    }
    section(&mut out, "Numbers", &numbers(report));
    out + "</main>\n</body>\n</html>\n"
}

fn section(out: &mut String, title: &str, content: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "<section>\n<h2>{}</h2>\n{content}\n</section>", escape(title));
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let mut items = vec![format!("{}, {} cores", machine.cpu, machine.cores)];
    for (threads, gbps) in &machine.read_gbps {
        let barrier = machine.barrier_ns.get(threads).copied().unwrap_or_default();
        let s = if *threads == 1 { "" } else { "s" };
        let region = format!("an empty parallel region takes {} ns", number(barrier));
        items.push(format!("{threads} thread{s}: reads {} GB/s; {region}", number(*gbps)));
    }
    let rates: Vec<String> =
        machine.int8_gmacs.iter().map(|(isa, gmacs)| format!("{isa} {}", number(*gmacs))).collect();
    if !rates.is_empty() {
        items.push(format!("10⁹ int8 multiply-adds per second: {}", rates.join(", ")));
    }
    items.extend(machine.gpu.iter().map(|gpu| {
        format!(
            "{}: {} ({}, {}); reads {} GB/s, copies {} GB/s, {} · 10⁹ int8 multiply-adds per second",
            gpu.device,
            gpu.name,
            gpu.kind,
            gpu.api,
            number(gpu.read_gbps),
            number(gpu.copy_gbps),
            number(gpu.int8_gmacs)
        )
    }));
    items.push(machine.energy.describe());
    let items: String = items.iter().map(|item| format!("<li>{}</li>", escape(item))).collect();
    format!("<ul class=\"machine\">{items}</ul>\n")
}

fn numbers(report: &Report) -> String {
    let header = ["model", "test", "settings", "tokens/s", "interval", "limit", "share", "MB/token", "J/token"];
    let header: String = header.iter().map(|name| format!("<th scope=\"col\">{name}</th>")).collect();
    let mut out = format!("<div class=\"scroll\"><table><thead><tr>{header}</tr></thead><tbody>");
    for row in &report.rows {
        let rate = &row.tokens_per_second;
        let interval = &rate.interval;
        let unit = if row.limit == "read" { "GB/s" } else { "G/s" };
        let cells = [
            number(rate.median),
            format!(
                "{} to {} ({:.0} % of {})",
                number(interval.low),
                number(interval.high),
                100.0 * interval.level,
                rate.n
            ),
            match row.limit_rate {
                Some(rate) => format!("{} {unit}", number(rate)),
                None if row.limit_share.is_some() => row.limit.clone(),
                None => "unknown".into(),
            },
            row.describe_share(),
            row.bytes_per_token.map_or_else(String::new, |bytes| number(bytes as f64 / 1e6)),
            row.energy.as_ref().map_or_else(String::new, |energy| number(energy.joules_per_token)),
        ];
        let texts = [row.model.clone(), test_name(row), settings(row)];
        let texts: String = texts.iter().map(|text| format!("<td>{}</td>", escape(text))).collect();
        let cells: String = cells.iter().map(|cell| format!("<td class=\"n\">{}</td>", escape(cell))).collect();
        let _ = write!(out, "<tr>{texts}{cells}</tr>");
    }
    out += "</tbody></table></div>";
    if !report.skipped.is_empty() {
        let items = report.skipped.iter().map(|skipped| {
            let place = skipped.placement.as_ref().unwrap_or(&skipped.device);
            let what = format!("{} on {place}, {}: {}", skipped.model, skipped.isa, skipped.reason);
            format!("<li>{}</li>", escape(&what))
        });
        let _ = write!(out, "<p>Left out:</p><ul>{}</ul>", items.collect::<String>());
    }
    out
}

/// What computes, which has one colour on the page.
fn backend(row: &Row) -> String {
    match (&row.isa, row.engine.as_str()) {
        (Some(isa), super::ENGINE) if row.placement == "cpu" => isa.clone(),
        (Some(_), super::ENGINE) => row.placement.clone(),
        (None, super::ENGINE) => row.device.clone(),
        (_, engine) => engine.to_owned(),
    }
}

/// What else tells rows of a test apart.
fn settings(row: &Row) -> String {
    let threads = match (&row.isa, row.engine.as_str(), row.threads) {
        (None, super::ENGINE, _) => String::new(),
        (_, _, 1) => ", 1 thread".into(),
        (_, _, threads) => format!(", {threads} threads"),
    };
    let kv = if row.kv == "f16" { String::new() } else { format!(", {} cache", row.kv) };
    let layout = if row.layout.is_empty() { String::new() } else { format!(" {}", row.layout) };
    format!("{}{layout}{threads}{kv}", backend(row))
}

/// `tg128`, `pp512`, `tg64 x4`.
fn test_kind(row: &Row) -> String {
    let parallel = if row.parallel > 1 { format!(" x{}", row.parallel) } else { String::new() };
    format!("{}{}{parallel}", row.test, row.n_prompt + row.n_gen)
}

/// The same with the tokens in front of it.
fn test_name(row: &Row) -> String {
    let depth = if row.depth > 0 { format!(" @ {}", row.depth) } else { String::new() };
    format!("{}{depth}", test_kind(row))
}
