"""Runs Sterna and llama.cpp in turn on the same weights and prints a table of medians; see README.md."""
import argparse
import importlib.metadata
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def sterna(model, args, threads):
    command = ["target/release/sterna", "bench", str(model), "-p", args.prompt, "-n", args.generate, "-t", threads, "-r", 1]
    report = json.loads(output(command + ["--format", "json"]))
    rates = {row["test"]: row["tokens_per_second"]["median"] for row in report["rows"]}
    rates["machine"] = report["machine"]
    rates["kernel"] = report["rows"][0]["kernel"]
    return rates


def llama_cpp(model, args, threads):
    script = [sys.executable, str(HERE / "llama_cpp_bench.py"), str(model)]
    return json.loads(output(script + ["--prompt", args.prompt, "--generate", args.generate, "--threads", threads]))


def output(command):
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="the folder with the models")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    version = importlib.metadata.version("llama-cpp-python")
    engines = {
        "sterna": (sterna, args.work / "2b-i2-s.gguf"),
        f"llama.cpp TQ2_0 (llama-cpp-python {version})": (llama_cpp, args.work / "2b-tq2-0.gguf"),
        f"llama.cpp TQ1_0 (llama-cpp-python {version})": (llama_cpp, args.work / "2b-tq1-0.gguf"),
    }
    results = {}
    for number in range(args.rounds):
        for threads in args.threads:
            for name, (run, model) in engines.items():
                rates = run(model, args, threads)
                results.setdefault((threads, name), []).append(rates)
                print(f"round {number + 1}, {threads} threads, {name}: pp {rates['pp']:.1f}, tg {rates['tg']:.1f}", file=sys.stderr)

    machine = results[args.threads[0], "sterna"][-1]["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores. Medians of {args.rounds} interleaved rounds, tokens per second.\n")
    print(f"| engine | threads | pp{args.prompt} | tg{args.generate} | Sterna's advantage |")
    print("|---|---|---|---|---|")
    for threads in args.threads:
        ours = {test: median(results[threads, "sterna"], test) for test in ("pp", "tg")}
        for name in engines:
            pp, tg = (median(results[threads, name], test) for test in ("pp", "tg"))
            advantage = "" if name == "sterna" else f"{ours['pp'] / pp:.1f}x, {ours['tg'] / tg:.1f}x"
            print(f"| {name} | {threads} | {pp:.1f} | {tg:.1f} | {advantage} |")


def median(runs, test):
    return statistics.median(run[test] for run in runs)


main()
