//! The command line with a GPU.

use assert_cmd::Command;

use crate::support::{adapter, turn};

/// The program; it leaves the user's folders alone.
fn sterna() -> Command {
    let mut command = Command::cargo_bin("sterna").unwrap();
    command.env("STERNA_GPU_CACHE", "");
    command
}

/// Output of a command as JSON.
fn json(args: &[&str]) -> serde_json::Value {
    let output = sterna().args(args).assert().success().get_output().stdout.clone();
    serde_json::from_slice(&output).unwrap()
}

/// The adapter under test, as `--device` takes it.
fn device() -> Option<String> {
    use sterna::backend::gpu::{adapters, choose};
    let found = adapters();
    Some(format!("gpu={}", choose(&found, &adapter()?).unwrap().summary.index))
}

#[test]
fn devices_are_listed_with_what_they_can_do() {
    let _turn = turn();
    let Some(device) = device() else { return };
    let devices = json(&["devices", "--json"]);
    assert!(devices["cpu"]["threads"].as_u64().unwrap() > 0, "{devices}");
    let index: usize = device["gpu=".len()..].parse().unwrap();
    let gpu = &devices["gpus"][index];
    assert_eq!(gpu["index"], index);
    assert!(!gpu["name"].as_str().unwrap().is_empty() && gpu["max_binding"].as_u64().unwrap() >= 1 << 20, "{gpu}");
    let verdict = gpu["verdict"].as_str().unwrap();
    assert_eq!(gpu["kind"] == "software", verdict.contains("software"), "{gpu}");
    let text = sterna().arg("devices").output().unwrap();
    assert!(String::from_utf8(text.stdout).unwrap().contains(gpu["name"].as_str().unwrap()));
}

#[test]
fn a_text_is_continued_as_on_the_cpu() {
    let _turn = turn();
    let Some(device) = device() else { return };
    let run =
        |device: &str| json(&["run", "Once upon a time", "-n", "24", "--temp", "0", "--json", "--device", device]);
    // Greedy choices of this prompt are clear: no rounding turns them.
    assert_eq!(run(&device)["text"], run("cpu")["text"]);
}

#[test]
fn the_cost_of_a_token_is_explained() {
    let _turn = turn();
    let Some(device) = device() else { return };
    let costs = json(&["bench", "demo", "--explain", "--device", &device, "-d", "0,100", "--format", "json"]);
    let costs = costs.as_array().unwrap();
    assert_eq!(costs.len(), 2);
    for cost in costs {
        let stage = &cost["stages"][0];
        assert_eq!((&stage["backend"], &stage["submissions"]), (&"gpu".into(), &1.into()), "{stage}");
        let bytes = |key: &str| stage[key].as_u64().unwrap() as f64;
        // Padding, intervals and few exact rows are all that is read beyond the least.
        assert!(bytes("bytes") >= bytes("least_bytes") && bytes("bytes") <= 1.05 * bytes("least_bytes"), "{stage}");
        // Of the head, an int8 row and its bounds.
        let read = |name: &str| {
            let kernels = stage["kernels"].as_array().unwrap();
            kernels.iter().find(|kernel| kernel[0] == name).map_or(0, |kernel| kernel[2].as_u64().unwrap())
        };
        assert!(read("int8 head") > 0 && read("head") == 0 && read("rescore") < read("int8 head") / 4, "{stage}");
    }
    assert!(costs[1]["stages"][0]["bytes"].as_u64() > costs[0]["stages"][0]["bytes"].as_u64(), "the cache is read too");
    let text = sterna().args(["bench", "--explain", "--device", &device]).output().unwrap();
    assert!(String::from_utf8(text.stdout).unwrap().contains("norm+qkv"));
}

#[test]
fn layers_on_several_devices_have_a_limit_too() {
    let _turn = turn();
    let Some(device) = device() else { return };
    let placement = "embed=cpu,0-1=cpu,2-=gpu";
    let args = ["bench", "demo", "-p", "12", "-n", "2", "-r", "1", "-t", "1", "--format", "json", "--device", &device];
    let report = json(&[&args[..], &["--placement", placement]].concat());
    let (machine, rows) = (&report["machine"], report["rows"].as_array().unwrap());
    assert_eq!((rows.len(), &machine["gpu"][0]["device"]), (2, &device.as_str().into()), "{report:#}");
    for row in rows {
        let (limit, other) = if row["test"] == "tg" { ("read", "bytes_per_token") } else { ("int8", "macs_per_token") };
        let [share, rate] = ["limit_share", "limit_rate"].map(|key| row[key].as_f64().unwrap());
        assert!(row["limit"] == limit && row["placement"].as_str().unwrap().contains("cpu") && row["isa"].is_string());
        assert!(share > 0.0, "{row}");
        // What each does at its own rate, all in all.
        let reached = row["tokens_per_second"]["median"].as_f64().unwrap() * row[other].as_f64().unwrap() / 1e9;
        assert!((share * rate / reached - 1.0).abs() < 1e-9, "{row}");
    }
}

#[test]
fn a_benchmark_knows_the_limits_and_the_time_of_each_kernel() {
    let _turn = turn();
    let Some(device) = device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.json");
    let args =
        ["bench", "demo", "-p", "12", "-n", "2", "-r", "1", "-t", "1,2", "--format", "json", "--device", &device];
    let report = json(&[&args[..], &["--profile", trace.to_str().unwrap()]].concat());
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "once, whatever the threads: {report:#}");
    for row in rows {
        assert!(row["isa"].is_null() && row["device"] == device.as_str() && row["placement"] == "gpu", "{row}");
        assert!(row["limit_share"].as_f64().unwrap() > 0.0 && row["limit_share"].as_f64().unwrap() < 1.5, "{row}");
    }
    let limits = &report["machine"]["gpu"][0];
    assert_eq!(limits["device"], device.as_str());
    for rate in ["read_gbps", "copy_gbps", "int8_gmacs"] {
        assert!(limits[rate].as_f64().unwrap() > 0.01, "{limits}");
    }
    let trace: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let ops: Vec<&serde_json::Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    assert!(ops.iter().all(|op| op["cat"] == "gpu"));
    if ops.iter().any(|op| op["name"] == "all layers") {
        println!("note: this device has no clock: its kernels are not timed");
        return;
    }
    for layer in 0..6 {
        assert!(ops.iter().any(|op| op["args"]["layer"] == layer), "layer {layer}");
    }
    let attention: f64 = ops.iter().filter(|op| op["name"] == "attention").map(|op| op["dur"].as_f64().unwrap()).sum();
    assert!(attention > 0.0);
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_numbers() {
    let _turn = turn();
    let Some(device) = device() else { return };
    let run = |memory: &str| {
        let args = ["run", "x", "-n", "2", "--device", &device, "--gpu-memory", memory];
        sterna().args(args).output().unwrap()
    };
    assert!(run("1G").status.success());
    let refused = run("2.5M");
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && text.contains("of 2.5 MiB (--gpu-memory)"), "{text}");
    let text = String::from_utf8(run("much").stderr).unwrap();
    assert!(text.contains("6G") && text.contains("--gpu-memory"), "{text}");
    let bench = ["bench", "--explain", "--device", &device, "--gpu-memory", "2.5M"];
    let text = String::from_utf8(sterna().args(bench).output().unwrap().stderr).unwrap();
    assert!(text.contains("of 2.5 MiB (--gpu-memory)"), "{text}");
}

#[test]
fn compiled_kernels_go_to_a_folder() {
    let _turn = turn();
    let Some(device) = device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("gpu");
    sterna().args(["run", "x", "-n", "2", "--device", &device]).env("STERNA_GPU_CACHE", &cache).assert().success();
    let is_vulkan = json(&["devices", "--json"])["gpus"].as_array().unwrap().iter().any(|gpu| gpu["api"] == "vulkan");
    assert_eq!(cache.exists(), is_vulkan, "wgpu keeps kernels of Vulkan only");
    let bench = folder.path().join("bench");
    let args = ["bench", "--explain", "--device", &device];
    sterna().args(args).env("STERNA_GPU_CACHE", &bench).assert().success();
    assert_eq!(bench.exists(), is_vulkan);
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let _turn = turn();
    let output = sterna().args(["run", "x", "--device", "gpu=nothing"]).assert().failure();
    let text = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(text.contains("no GPU named like \"nothing\"") && !text.contains("panicked"), "{text}");
}

#[test]
fn what_only_the_cpu_runs_is_named() {
    let _turn = turn();
    let Some(device) = device() else { return };
    for (model, feature) in [
        ("qwen3_bitlinear", "norms of queries and keys"),
        ("embed_qwen3", "norms of queries and keys"),
        ("embed_gemma3", "scaled embeddings"),
        ("minicpm_bitlinear", "scaled embeddings"),
    ] {
        let path = crate::common::fixture(model);
        let run = |device: &str| {
            let mut command = sterna();
            command.arg("run").arg(&path).args(["of the", "-n", "4", "--temp", "0", "--device", device]);
            command.output().unwrap()
        };
        let refused = run(&device);
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(
            !refused.status.success() && text.contains(feature) && text.contains("--device cpu"),
            "{model}: {text}"
        );
        let auto = run("auto");
        assert!(auto.status.success(), "{model}: {}", String::from_utf8_lossy(&auto.stderr));
        assert_eq!(auto.stdout, run("cpu").stdout, "{model}");
    }
}
