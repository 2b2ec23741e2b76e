//! The `sterna` command as a person uses it.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use assert_cmd::Command;
use common::{fixture, max_abs_diff, read_tensors};
use predicates::prelude::*;
use predicates::str::contains;

fn sterna() -> Command {
    let mut command = Command::cargo_bin("sterna").unwrap();
    command.env_remove("STERNA_ISA").env_remove("STERNA_LOG");
    command
}

fn json(command: &mut Command) -> serde_json::Value {
    serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
}

#[test]
fn run_tells_a_story() {
    let output = sterna().args(["run", "Once upon a time", "-n", "40", "--seed", "3"]).assert().success();
    let output = output.stderr(contains("tok/s"));
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(text.split_whitespace().count() > 15, "{text}");
    let quiet = sterna().args(["run", "demo", "Once upon a time", "-n", "40", "--seed", "3", "-q"]).assert().success();
    let quiet = quiet.stderr("");
    assert_eq!(text.as_bytes(), quiet.get_output().stdout, "the same seed tells the same story");
}

#[test]
fn run_reads_the_prompt_from_stdin() {
    let from_argument = json(sterna().args(["run", "The king", "-n", "5", "--temp", "0", "--json"]));
    let from_stdin = json(sterna().args(["run", "-n", "5", "--temp", "0", "--json"]).write_stdin("The king\n"));
    assert_eq!(from_argument["prompt_tokens"], from_stdin["prompt_tokens"]);
    assert_eq!(from_argument["tokens"], from_stdin["tokens"]);
    sterna().args(["run"]).write_stdin("").assert().failure().stderr(contains("standard input is empty"));
}

#[test]
fn run_reports_tokens_text_timings_and_the_finish_reason() {
    let object = json(sterna().args(["run", "--tokens", "0,2540,683", "-n", "8", "--temp", "0", "--json"]));
    assert_eq!(object["prompt_tokens"], serde_json::json!([0, 2540, 683]));
    assert_eq!(object["tokens"].as_array().unwrap().len(), 8);
    assert_eq!(object["finish_reason"], "length");
    assert!(!object["text"].as_str().unwrap().is_empty());
    assert_eq!(object["timings"]["prompt_tokens"], 3);
    assert_eq!(object["timings"]["generated_tokens"], 8);
    assert!(object["timings"]["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn run_obeys_stop_strings_and_the_context() {
    let whole = json(sterna().args(["run", "Once upon a time", "-n", "60", "--temp", "0", "--json"]));
    let text = whole["text"].as_str().unwrap();
    let word = text.split_whitespace().nth(4).unwrap();
    let stopped = json(sterna().args(["run", "Once upon a time", "-n", "60", "--temp", "0", "--json", "--stop", word]));
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["text"].as_str().unwrap(), &text[..text.find(word).unwrap()]);

    let short =
        json(sterna().args(["run", "Once upon a time", "--ctx", "12", "--temp", "0", "--json", "--ignore-eos"]));
    assert_eq!(short["finish_reason"], "context");
    let tokens = short["tokens"].as_array().unwrap().len() + short["prompt_tokens"].as_array().unwrap().len();
    assert_eq!(tokens, 13, "the last token needs no room");
    sterna()
        .args(["run", "Once upon a time, long ago, in a land far away", "--ctx", "4"])
        .assert()
        .failure()
        .stderr(contains("do not fit into the context of 4"));
}

#[test]
fn every_isa_and_kernel_of_the_machine_can_be_forced() {
    let text = |isa: &str| {
        let object = json(sterna().env("STERNA_ISA", isa).args(["run", "The", "-n", "10", "--temp", "0", "--json"]));
        object["text"].as_str().unwrap().to_owned()
    };
    let scalar = text("scalar");
    for isa in sterna::Isa::ALL {
        if isa.is_available() {
            assert_eq!(text(isa.name()), scalar);
        } else {
            let mut command = sterna();
            command.env("STERNA_ISA", isa.name()).args(["run", "The"]);
            command.assert().failure().stderr(contains("does not have the instruction set"));
        }
    }
    for kernels in [["--kernel", "lut"], ["--kernel", "mad"], ["--layout", "lut2"], ["--layout", "lut5"]] {
        let object = json(sterna().args(["run", "The", "-n", "10", "--temp", "0", "--json"]).args(kernels));
        assert_eq!(object["text"].as_str(), Some(&*scalar), "{kernels:?}");
    }
    sterna().args(["run", "The", "--isa", "mmx"]).assert().failure().stderr(contains("unknown instruction set"));
}

#[test]
fn bad_options_are_explained() {
    for (args, message) in [
        (&["run", "x", "--temp", "-1"][..], "temperature"),
        (&["run", "x", "--top-p", "0"], "top_p is 0"),
        (&["run", "x", "--threads", "0"], "threads"),
        (&["run", "--tokens", "1,x"], "\"x\""),
        (&["run", "--tokens", "99999"], "not in the vocabulary"),
        (&["run", "missing.gguf", "x"], "missing.gguf"),
        (&["run", "x", "--placement", "npu"], "no backend \"npu\""),
        (&["run", "x", "--device", "npu"], "unknown device \"npu\""),
        (&["run", "x", "--placement", "0-99=cpu"], "\"99\" is not a block"),
        (&["logits", "demo", "--tokens", "1", "--hidden", "99", "--out", "/nowhere/x"], "99"),
        (&["run", "x", "--chat"], "chat template"),
    ] {
        sterna().args(args).assert().failure().stderr(contains(message).and(contains("panicked").not()));
    }
}

#[test]
fn logits_are_written_with_hidden_states() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.safetensors");
    let expected = read_tensors(&fixture("bitnet_a").join("expected.safetensors"));
    let ids = expected["p0.ids"].ids().iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut command = sterna();
    command.arg("logits").arg(fixture("bitnet_a").join("model-i2_s.gguf"));
    command.args(["--tokens", &ids, "--kv", "f32", "--hidden", "0", "--hidden", "embed", "--out"]).arg(&out);
    command.assert().success();
    let got = read_tensors(&out);
    assert_eq!(got["logits"].shape, [24, 512]);
    assert!(max_abs_diff(&got["logits"].f32(), &expected["p0.logits"].f32()) < 2e-3);
    assert!(max_abs_diff(&got["hidden.0"].f32(), &expected["p0.hidden_layer0"].f32()) < 1e-2);
    assert_eq!(got["hidden.embed"].f32(), expected["p0.hidden_embed"].f32());
    assert_eq!(got["tokens"].data, expected["p0.ids"].data);
    // What is there is not overwritten unless asked.
    command.assert().failure().stderr(contains("--force"));
    command.arg("--force").assert().success();
}

#[test]
fn inspect_shows_what_is_in_a_file() {
    sterna().args(["inspect"]).assert().success().stdout(contains("BitNetForCausalLM").and(contains("ternary")));
    let mut command = sterna();
    let object = json(command.arg("inspect").arg(fixture("llama_a").join("model-tq1_0.gguf")).arg("--json"));
    assert_eq!(object["architecture"], "llama");
    assert_eq!(object["config"]["num_key_value_heads"], 1);
    assert_eq!(object["tensors"].as_array().unwrap().len(), 21);
    let ternary = 2 * (256 * 256 * 2 + 2 * 64 * 256 + 3 * 256 * 512);
    assert_eq!(object["parameters"]["ternary"], ternary);
    assert_eq!(object["bytes"]["ternary"].as_u64().unwrap(), ternary * 54 / 256);
}

#[test]
fn chat_answers_and_saves() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let mut command = sterna();
    command.env("HOME", folder.path()).env("XDG_DATA_HOME", folder.path());
    command.arg("chat").arg(fixture("bitnet_a")).args(["-n", "8", "--temp", "0", "--system", "Be brief."]);
    let input = format!("Hello\n\"\"\"two\nlines\"\"\"\n/save {0}\n/save {0}\n/bogus\n/reset\n/exit\n", file.display());
    let output = command.write_stdin(input).assert().success();
    output.stderr(contains("saved 5 messages").and(contains("cannot create")).and(contains("unknown command /bogus")));
    let saved: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(saved["messages"][0], serde_json::json!({ "role": "system", "content": "Be brief." }));
    assert_eq!(saved["messages"][3]["content"], "two\nlines");
    assert_eq!(saved["messages"][4]["role"], "assistant");
}

#[test]
fn completions_are_printed() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        sterna().args(["completions", shell]).assert().success().stdout(contains("inspect"));
    }
}

#[test]
fn bench_measures_every_combination() {
    let mut command = sterna();
    command.args(["bench", "demo", "-p", "8,16", "-n", "4", "-d", "0,8", "-t", "1,2", "--kv", "f16,f32", "-r", "2"]);
    let report = json(command.args(["--isa", "scalar", "--layout", "t16,t16x5", "--format", "json"]));
    let rows = report["rows"].as_array().unwrap();
    // 3 tests, 2 depths, 2 numbers of threads, 2 caches, 2 layouts; a machine with two states may split rows.
    assert!(rows.len() >= 48, "{}", rows.len());
    for row in rows {
        assert!(row["tokens_per_second"]["median"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!((&row["device"], &row["placement"], &row["parallel"]), (&"cpu".into(), &"cpu".into(), &1.into()));
        assert!(row["bytes_per_token"].as_u64().unwrap() > 1 << 20);
        match row["test"].as_str() {
            Some("pp") => assert_eq!((&row["limit"], &row["n_gen"]), (&"int8".into(), &0.into())),
            _ => assert!(row["limit"] == "read" && row["limit_share"].as_f64().unwrap() > 0.0),
        }
    }
    assert!(report["machine"]["read_gbps"]["1"].as_f64().unwrap() > 0.0);
    assert!(report["machine"]["barrier_ns"]["2"].as_f64().unwrap() > 0.0);

    sterna().args(["bench", "demo", "-p", "8", "-n", "0", "-r", "1"]).assert().success().stdout(contains("pp8"));
    sterna().args(["bench", "synth:9b"]).assert().failure().stderr(contains("2b-4t"));
    sterna().args(["bench", "-p", "0", "-n", "0"]).assert().failure().stderr(contains("nothing to measure"));
}

#[test]
fn doctor_checks_every_kernel() {
    let findings = json(sterna().args(["doctor", "--json"]));
    let kernels = findings["kernels"].as_array().unwrap();
    assert!(kernels.len() >= 2 && kernels.iter().all(|check| check["correct"] == true), "{findings}");
    sterna().arg("doctor").env("STERNA_ISA", "scalar").assert().success().stdout(contains("STERNA_ISA=scalar"));
}

#[test]
fn plans_say_what_goes_where() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tuning.json");
    let plan = || {
        let mut command = sterna();
        command.env("STERNA_TUNING", &file).args(["plan", "--json"]);
        command
    };
    // A model that is there: some of its blocks are run. Nothing is kept where there is no other device.
    let demo = json(plan().args(["--device", "cpu"]));
    assert_eq!((&demo["placement"]["decode"], &demo["problem"]), (&"cpu".into(), &serde_json::Value::Null));
    assert_eq!(demo["devices"][0]["source"], "measured");
    assert!(demo["token_ms"]["decode"].as_f64().unwrap() > 0.0 && !file.exists(), "{demo}");
    // Shapes, from sizes alone. Four of these weights are a byte.
    let of = |object: &serde_json::Value, key: &str| -> f64 {
        object["stages"].as_array().unwrap().iter().map(|stage| stage[key].as_f64().unwrap()).sum()
    };
    let gpu = "gpu=24G:936:90";
    let shape = |name: &str| json(plan().args(["--shape", name, "--ctx", "4096", "--assume", gpu]));
    let large = shape("bitnet-100b");
    let ternary = 72.0 * f64::from(4 * 8192 * 8192 + 3 * 8192 * 45_568);
    let bytes = of(&large, "weights");
    // 1.6 bits on the CPU, 2 bits on the GPU, and a head.
    assert!(bytes >= ternary / 5.0 && bytes <= ternary / 4.0 + 1e9, "{bytes} of {ternary}");
    let cache = 4096.0 * 72.0 * 2.0 * 8192.0 * 2.0;
    assert!((of(&large, "kv_cache") / cache - 1.0).abs() < 0.05, "{large}");
    let device = &large["devices"][1];
    let held: f64 = ["weights", "kv_cache", "buffers"].iter().map(|key| device[*key].as_f64().unwrap()).sum();
    assert!(held <= f64::from(24 << 10) * f64::from(1 << 20) && held > 20e9, "the device is full, not more: {device}");
    // No faster than its memory is read.
    let on_gpu = large["stages"].as_array().unwrap().iter().find(|stage| stage["device"] == "gpu").unwrap();
    let least = on_gpu["weights"].as_f64().unwrap() / 936e9 * 1e3;
    let ms = on_gpu["ms"]["decode"].as_f64().unwrap();
    assert!(ms >= 0.99 * least && ms <= 1.5 * least, "{ms} ms, {least} at least");
    let small = shape("bitnet-2b-4t");
    assert_eq!(small["placement"]["decode"], "gpu");
    assert!(of(&small, "weights") > 1.1e9 && of(&small, "weights") < 1.3e9, "{small}");

    let text = sterna().args(["plan", "--shape", "2b-4t", "--assume", "gpu=700M:450:40"]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    for what in ["embed", "█", "tokens/s", "run it with --placement", "assumed: 700.0 MiB"] {
        assert!(text.contains(what), "{what}: {text}");
    }
    let layers = ["--shape", "2b-4t", "--assume", gpu, "--gpu-layers", "10"];
    assert_eq!(json(plan().args(layers))["placement"]["decode"], "embed=cpu,0-19=cpu,20-29=gpu,head=cpu");
    sterna().args(["plan", "--shape", "2c"]).assert().failure().stderr(contains("100b"));
    sterna().args(["plan", "--assume", "gpu=fast"]).assert().failure().stderr(contains("gpu=24G:936:90"));
    sterna().args(["plan", "--workload", "0:0"]).assert().failure().stderr(contains("512:128"));
    sterna().args(["plan", "no-such-model"]).assert().failure().stderr(contains("no-such-model"));
}

#[test]
fn placements_are_compared() {
    let cut = "embed=cpu,0-1=cpu,2-=cpu";
    let compare = ["bench", "--compare", "cpu", cut, "-p", "24", "-n", "4", "-t", "2"];
    let compared = json(sterna().args(compare).args(["--format", "json"]));
    assert_eq!(compared["logits"]["max"], 0.0);
    assert_eq!(compared["logits"]["same_best"], 1.0);
    assert_eq!(compared["sides"][1]["layers"].as_array().unwrap().len(), 6);
    let text = sterna().args(compare).args(["--text", "Once upon a time there was a king"]).assert().success();
    text.stdout(contains("same best token 100.0 %").and(contains("embed")).and(contains("ms/token")));
    sterna().args(["bench", "--compare", "cpu"]).assert().failure();
    sterna().args(["bench", "--compare", "cpu", "9=cpu", "-n", "2"]).assert().failure().stderr(contains("0 to 3"));
}

#[test]
fn perplexity_is_that_of_the_text() {
    let text = fixture_text();
    let perplexity = |more: &[&str]| {
        let mut command = sterna();
        command.args(["perplexity", "--file", &text, "--tokens", "301", "--ctx", "100", "--kv", "f32"]).args(more);
        command
    };
    let disjoint = json(perplexity(&[]).arg("--json"));
    assert_eq!((disjoint["predicted"].as_u64(), disjoint["windows"].as_u64()), (Some(300), Some(3)));
    assert!(disjoint["complete"].as_bool().unwrap());
    let (value, loss) = (disjoint["perplexity"].as_f64().unwrap(), disjoint["loss"].as_f64().unwrap());
    assert!((value.ln() - loss).abs() < 1e-9 && (1.0..100.0).contains(&value), "{value}");
    // More context in front of each token tells more.
    let overlapping = json(&mut perplexity(&["--stride", "25", "--json"]));
    assert!(overlapping["perplexity"].as_f64().unwrap() < value);
    perplexity(&[]).assert().success().stdout(contains(format!("perplexity {value:.4}")).and(contains("300 tokens")));
    perplexity(&["--stride", "101"]).assert().failure().stderr(contains("stride is 101"));
    sterna().args(["perplexity", "--file", "no-such-text"]).assert().failure().stderr(contains("no-such-text"));
}

/// The path of the text that the demo model was not trained on.
fn fixture_text() -> String {
    common::data_path("demo/heldout.txt").to_str().unwrap().to_owned()
}

#[test]
fn i2_s_files_of_other_builds_are_read_on_demand() {
    let source = fixture("llama_a").join("model-i2_s.gguf");
    let mut bytes = std::fs::read(&source).unwrap();
    let checkpoint = sterna::format::Checkpoint::open(&source).unwrap();
    for info in checkpoint.tensors().filter(|info| info.dtype == sterna::format::DType::I2S) {
        let tensor = checkpoint.data(&info.name).unwrap();
        let start = bytes.windows(tensor.len()).position(|window| window == &tensor[..]).unwrap();
        // From runs of 32 bytes for 128 weights to runs of 16 for 64.
        let codes = tensor.len() - 32;
        let code = |index: usize| (tensor[index / 128 * 32 + index % 32] >> (6 - 2 * (index % 128 / 32))) & 3;
        for byte in 0..codes {
            let first = byte / 16 * 64 + byte % 16;
            bytes[start + byte] = (0..4).fold(0, |all, run| (all << 2) | code(first + 16 * run));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("arm.gguf");
    std::fs::write(&path, bytes).unwrap();
    let run = |path: &std::path::Path, order: &[&str]| {
        let mut command = sterna();
        command.arg("run").arg(path).args(["--tokens", "1,5,9", "-n", "8", "--temp", "0", "--json"]).args(order);
        json(&mut command)["tokens"].clone()
    };
    let expected = run(&source, &[]);
    assert_eq!(run(&path, &["--i2s", "arm64"]), expected);
    assert_ne!(run(&path, &[]), expected, "the order matters");
    let out = folder.path().join("t16.gguf");
    sterna().arg("convert").arg(&path).arg(&out).args(["--i2s", "arm64", "--verify"]).assert().success();
    assert_eq!(run(&out, &[]), expected);
}
