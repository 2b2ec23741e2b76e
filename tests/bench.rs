//! `sterna bench` from outside: what it prints, in every format.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use assert_cmd::Command;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

/// The program; it leaves the user's folders alone.
fn sterna() -> Command {
    let mut command = Command::cargo_bin("sterna").unwrap();
    command.env("STERNA_GPU_CACHE", "").env("STERNA_TUNING", "").env_remove("STERNA_ISA");
    command
}

/// What a benchmark prints.
fn bench(args: &[&str]) -> String {
    let output = sterna().arg("bench").args(args).assert().success().get_output().stdout.clone();
    String::from_utf8(output).unwrap()
}

/// What a benchmark prints as JSON, which is as its schema says.
fn report(args: &[&str]) -> Value {
    let report: Value = serde_json::from_str(&bench(&[args, &["--format", "json"]].concat())).unwrap();
    check(&report);
    report
}

fn check(report: &Value) {
    let schema: Value = serde_json::from_str(include_str!("../docs/bench.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(report).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{report:#}");
}

#[test]
fn the_schema_refuses_what_is_not_a_report() {
    let schema: Value = serde_json::from_str(include_str!("../docs/bench.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut report = report(&["-p", "4", "-n", "0", "-r", "1", "--isa", "scalar"]);
    assert!(validator.is_valid(&report));
    report["rows"][0]["tokens_per_second"]["median"] = "fast".into();
    assert!(!validator.is_valid(&report));
}

#[test]
fn what_cannot_run_here_is_left_out_with_the_reason() {
    let missing = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
    let isas = format!("scalar,{missing}");
    let args = ["-p", "8", "-n", "2", "-r", "1", "-t", "1", "--isa", &isas, "--device", "cpu,gpu=no such device"];
    let report = report(&args);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{report:#}");
    assert!(rows.iter().all(|row| row["isa"] == "scalar" && row["device"] == "cpu"));
    let skipped = report["skipped"].as_array().unwrap();
    let reasons: Vec<&str> = skipped.iter().map(|skipped| skipped["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].contains(missing), "{reasons:?}");
    assert!(reasons[1].contains("GPU") && skipped[1]["device"] == "gpu=no such device", "{reasons:?}");

    let told = sterna().arg("bench").args(args).assert().success();
    told.stderr(contains(format!("{missing}, f16: ")).and(contains("skipped demo on gpu=no such device")));
    let nothing = sterna().args(["bench", "-n", "2", "-p", "0", "--isa", missing]).assert().failure();
    nothing.stderr(contains("nothing could be measured").and(contains(missing)));
    // A file that is not there is no combination.
    sterna().args(["bench", "demo", "no-such-file"]).assert().failure().stderr(contains("no-such-file"));
}

#[test]
fn sequences_run_together() {
    let report = report(&["-p", "12", "-n", "6", "-b", "1,4", "-d", "0,40", "-r", "2", "-t", "2", "--isa", "scalar"]);
    let rows = report["rows"].as_array().unwrap();
    let of = |parallel: u64, depth: u64| {
        let generated = |row: &&Value| row["parallel"] == parallel && row["depth"] == depth && row["test"] == "tg";
        rows.iter().find(generated).unwrap()
    };
    // They share the weights but not the cache.
    let bytes = |parallel, depth| of(parallel, depth)["bytes_per_token"].as_u64().unwrap();
    let cache = bytes(1, 40) - bytes(1, 0);
    assert!(cache > 0 && bytes(4, 40) - bytes(4, 0) == cache);
    assert!(bytes(4, 0) < bytes(1, 0) / 3);
    let samples = of(4, 0)["tokens_per_second"]["samples"].as_array().unwrap();
    assert!(samples.len() as u64 == of(4, 0)["tokens_per_second"]["n"], "{samples:?}");
}

#[test]
fn kernels_stand_for_layouts() {
    let report = report(&["-p", "0", "-n", "2", "-r", "1", "-t", "1", "--isa", "scalar", "--kernel", "mul,lut,auto"]);
    let layouts: Vec<&str> =
        report["rows"].as_array().unwrap().iter().map(|row| row["layout"].as_str().unwrap()).collect();
    assert_eq!(layouts, ["t16", "lut5", "t16"]);
    sterna().args(["bench", "--kernel", "lut", "--layout", "t16"]).assert().failure();
}

#[test]
fn every_format_holds_every_row() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rates");
    let written = |format: &str| {
        let path = file.to_str().unwrap();
        let args =
            ["demo", "-p", "8", "-n", "2", "-r", "1", "-t", "1,2", "--isa", "scalar", "--format", format, "-o", path];
        assert_eq!(bench(&args), "");
        std::fs::read_to_string(&file).unwrap()
    };
    let csv = written("csv");
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let columns = reader.headers().unwrap().clone();
    let column = |name: &str| columns.iter().position(|column| column == name).unwrap();
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), 4);
    for record in &records {
        let median: f64 = record[column("median")].parse().unwrap();
        assert!(median > 0.0 && record[column("samples")].parse::<f64>().unwrap() == median, "{record:?}");
        assert_eq!((&record[column("model")], &record[column("layout")]), ("demo", "t16"));
    }
    let lines: Vec<Value> = written("jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["machine"]["cores"].as_u64().unwrap() > 0);
    let rows: Vec<Value> = lines.iter().filter_map(|line| line.get("row").cloned()).collect();
    assert_eq!(rows.len(), 4);
    check(&serde_json::json!({ "machine": lines[0]["machine"], "rows": rows, "skipped": [] }));
    let markdown = written("md");
    assert!(markdown.starts_with("- ") && markdown.matches("\n| sterna").count() == 4, "{markdown}");
    assert!(written("table").matches("\n| sterna").count() == 4);
    let nowhere = folder.path().join("none").join("rates");
    let failed = sterna().args(["bench", "-p", "4", "-n", "0", "-r", "1", "-o"]).arg(&nowhere).assert().failure();
    failed.stderr(contains("cannot be written"));
}

/// A report whose only row has these samples.
fn report_of(samples: &[f64]) -> Value {
    let mut report = report(&["-p", "0", "-n", "2", "-r", "1", "-t", "1", "--isa", "scalar"]);
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rate = &mut report["rows"][0]["tokens_per_second"];
    rate["median"] = sorted[sorted.len() / 2].into();
    rate["samples"] = samples.into();
    report
}

#[test]
fn reports_are_compared_with_significance() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, report: &Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, report.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let before = report_of(&[100.0, 101.0, 102.0, 103.0, 104.0]);
    let [a, slower, noisy] =
        [before.clone(), report_of(&[80.0, 81.0, 82.0, 83.0, 84.0]), report_of(&[80.0, 85.0, 90.0, 102.5, 110.0])]
            .map(|report| file(&report["rows"][0]["tokens_per_second"]["samples"][2].to_string(), &report));
    let diff = |a: &str, b: &str, more: &[&str]| {
        let mut command = sterna();
        command.args(["bench", "diff", a, b]).args(more);
        command
    };
    let output = diff(&a, &slower, &["--format", "json"]).assert().success().get_output().stdout.clone();
    let change = &serde_json::from_slice::<Value>(&output).unwrap()["rows"][0];
    assert!((change["ratio"].as_f64().unwrap() - 82.0 / 102.0).abs() < 1e-12, "{change}");
    // All of one are above all of the other: 2 of 252 orders.
    assert!((change["p"].as_f64().unwrap() - 2.0 / 252.0).abs() < 1e-9 && change["is_significant"] == true, "{change}");
    assert_eq!((&change["test"], &change["n_gen"]), (&"tg".into(), &2.into()));

    let failed = diff(&a, &slower, &["--fail-below", "0.95"]).assert().code(1);
    failed.stdout(contains("slower").and(contains("0.804"))).stderr(contains("significantly slower than 0.95"));
    diff(&a, &slower, &["--fail-below", "0.8"]).assert().success();
    // Slower by its median, but that may be chance; and what is faster is no failure.
    diff(&a, &noisy, &["--fail-below", "0.95"]).assert().success();
    diff(&slower, &a, &["--fail-below", "0.95"]).assert().success().stdout(contains("faster"));
    diff(&a, &slower, &["--fail-below", "0.95", "--level", "0.001"]).assert().success();

    let mut other = before;
    other["rows"][0]["threads"] = 7.into();
    let other = file("other", &other);
    let none = diff(&a, &other, &[]).assert().failure();
    none.stderr(contains("no row in common")).stdout(contains("only in A").and(contains("7 threads")));
    let broken = folder.path().join("broken");
    std::fs::write(&broken, "{\"rows\": 3}").unwrap();
    let broken = broken.to_str().unwrap();
    diff(&a, broken, &[]).assert().failure().stderr(contains("broken").and(contains("--format json")));
    diff(&a, "no-such-file", &[]).assert().failure().stderr(contains("no-such-file"));
    diff(&a, &a, &["--fail-below", "zero"]).assert().failure().stderr(contains("0.95"));
}

#[test]
fn profiles_and_pages_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (page, trace) = (path("page.html"), path("trace.json"));
    let args =
        ["demo", "-p", "8", "-n", "4", "-r", "2", "-t", "2", "-d", "0,40", "--isa", "scalar", "--layout", "t16,t16x5"];
    let report = report(&[&args[..], &["--html", &page, "--profile", &trace]].concat());
    // A machine with two states may split rows.
    assert!(report["rows"].as_array().unwrap().len() >= 8);

    let trace: Value = serde_json::from_str(&std::fs::read_to_string(trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let names: Vec<&str> =
        events.iter().filter(|e| e["name"] == "process_name").map(|e| e["args"]["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    let generated = names.iter().position(|name| name.contains("tg4, cpu, 2 threads, t16x5")).unwrap() + 1;
    let ops: Vec<&Value> = events.iter().filter(|e| e["pid"] == generated && e["ph"] == "X").collect();
    // 4 tokens through 4 blocks with 10 ops, the embedding and the head.
    assert_eq!(ops.len(), 4 * (4 * 10 + 2), "{ops:#?}");
    for layer in 0..6 {
        assert!(ops.iter().any(|op| op["args"]["layer"] == layer), "layer {layer}");
    }
    let mut end = 0.0;
    for op in ops {
        let (start, time) = (op["ts"].as_f64().unwrap(), op["dur"].as_f64().unwrap());
        assert!(start >= end - 1e-3 && time >= 0.0, "ops follow each other: {op}");
        end = start + time;
    }

    let page = std::fs::read_to_string(page).unwrap();
    for part in ["Throughput by backend", "Time by op", "Roofline", "Generation over depth", "tokens per second"] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page.matches("role=\"img\" aria-label=\"").count(), page.matches("<svg").count());
    assert!(!page.contains("http") && !page.contains("<script") && !page.contains("NaN") && !page.contains("inf\""));
}

#[cfg(unix)]
#[test]
fn peers_take_part_in_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("requests");
    let log = log.to_str().unwrap();
    let peer = format!(
        r#"echo '{{"name": "peer"}}'; while read -r line; do echo "$line" >> '{log}'; case "$line" in
        *'"n_gen":6'*) echo '{{"skip": "six is too many"}}';;
        *) echo '{{"tokens_per_second": 5.5, "bytes_per_token": 1000000, "layout": "tq2_0"}}';; esac; done"#
    );
    let args = ["demo", "-p", "8", "-n", "4,6", "-r", "3", "-t", "1", "--isa", "scalar", "--layout", "t16,t16x5"];
    let report = report(&[&args[..], &["--peer", &peer, "--peer", "exit 3", "--peer", "echo nonsense"]].concat());
    let rows = report["rows"].as_array().unwrap();
    let of_peer: Vec<&Value> = rows.iter().filter(|row| row["engine"] == "peer").collect();
    let median = |row: &&Value| row["tokens_per_second"]["median"] == 5.5;
    assert!(of_peer.len() >= 2 && of_peer.iter().all(median), "{of_peer:#?}");
    assert!(of_peer.iter().all(|row| row["layout"] == "tq2_0" && row["model"] == "demo"));
    let repetitions = |test: &str| {
        let of_test = of_peer.iter().filter(|row| row["test"] == test);
        of_test.map(|row| row["tokens_per_second"]["n"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((repetitions("pp"), repetitions("tg")), (3, 3));
    let generated = of_peer.iter().find(|row| row["test"] == "tg").unwrap();
    let (share, rate) = (generated["limit_share"].as_f64().unwrap(), generated["limit_rate"].as_f64().unwrap());
    assert!((share - 5.5e6 / 1e9 / rate).abs() < share * 0.5, "{generated}");

    let reasons: Vec<&str> =
        report["skipped"].as_array().unwrap().iter().map(|skipped| skipped["reason"].as_str().unwrap()).collect();
    let said = |text: &str| reasons.iter().any(|reason| reason.contains(text));
    assert!(said("it ended instead of giving its name") && said("nonsense") && said("six is too many"), "{reasons:?}");
    // Each test in turn, round by round, again where the machine changed meanwhile; only the first one is warmed up.
    let requests: Vec<Value> =
        std::fs::read_to_string(log).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let mut tests: Vec<(&str, u64, bool)> = requests
        .iter()
        .map(|r| {
            (
                r["test"].as_str().unwrap(),
                r["n_prompt"].as_u64().unwrap() + r["n_gen"].as_u64().unwrap(),
                r["warm_up"] == true,
            )
        })
        .collect();
    assert_eq!(tests.iter().filter(|(_, _, is_first)| *is_first).count(), 3);
    tests.dedup_by_key(|(test, tokens, _)| (*test, *tokens));
    let first = [("pp", 8, true), ("tg", 4, true), ("tg", 6, true)];
    let later = [("pp", 8, false), ("tg", 4, false)];
    assert_eq!(tests, [&first[..], &later, &later].concat());
}
