"""llama.cpp as a peer of `sterna bench --peer`: reads tests as lines of JSON and prints tokens per second; see README.md."""
import argparse
import ctypes
import importlib.metadata
import json
import sys
import time

import llama_cpp as llama

# Tokens of the prompt in front of a generation, as Sterna has it.
PROMPT = 16


class Engine:
    """A model and a context for one test at a time."""

    def __init__(self, path):
        self.path = path
        self.model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        vocab = llama.llama_model_get_vocab(self.model)
        self.tokens = llama.llama_vocab_n_tokens(vocab)
        self.sampler = llama.llama_sampler_init_greedy()

    def measure(self, test):
        sequences = test["parallel"]
        is_prompt = test["test"] == "pp"
        length = test["n_prompt"] if is_prompt else PROMPT
        before = test["depth"] if is_prompt else max(test["depth"] - PROMPT, 0)
        params = llama.llama_context_default_params()
        params.n_ctx = (before + length + test["n_gen"] + 64) * sequences
        params.n_seq_max = sequences
        params.n_batch = params.n_ubatch = max((before + length) * sequences, 64)
        params.n_threads = params.n_threads_batch = test["threads"]
        context = llama.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError("llama.cpp cannot make a context")
        try:
            rows = [[(i * 31 + s * 17 + 7) % self.tokens for i in range(before + length)] for s in range(sequences)]
            if test["warm_up"]:
                self.decode(context, [row[:4] for row in rows], 0)
                llama.llama_memory_clear(llama.llama_get_memory(context), True)
            if before:
                self.decode(context, [row[:before] for row in rows], 0)
            llama.llama_synchronize(context)
            start = time.perf_counter()
            self.decode(context, [row[before:] for row in rows], before)
            llama.llama_synchronize(context)
            if is_prompt:
                return length * sequences / (time.perf_counter() - start)
            # The rows of a batch that have logits are the last of each sequence.
            last = [length * (s + 1) - 1 for s in range(sequences)]
            start = time.perf_counter()
            for step in range(test["n_gen"]):
                best = [llama.llama_sampler_sample(self.sampler, context, row) for row in last]
                self.decode(context, [[token] for token in best], before + length + step)
                last = list(range(sequences))
            llama.llama_synchronize(context)
            return test["n_gen"] * sequences / (time.perf_counter() - start)
        finally:
            llama.llama_free(context)

    def decode(self, context, rows, position):
        """Appends a row of tokens to each sequence; logits of the last of each."""
        count = sum(len(row) for row in rows)
        batch = llama.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        at = 0
        for sequence, row in enumerate(rows):
            for i, token in enumerate(row):
                batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.seq_id[at][0] = token, position + i, 1, sequence
                batch.logits[at] = i == len(row) - 1
                at += 1
        failed = llama.llama_decode(context, batch) != 0
        llama.llama_batch_free(batch)
        if failed:
            raise RuntimeError("llama_decode failed")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="another file than Sterna's: the same weights in an encoding that llama.cpp knows")
    parser.add_argument("--layout", default="", help="what to call that encoding")
    args = parser.parse_args()

    # Standard output is for answers only.
    silent = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    name = f"llama.cpp (llama-cpp-python {importlib.metadata.version('llama-cpp-python')})"
    print(json.dumps({"name": f"{name} {args.layout}".strip()}), flush=True)
    engine = None
    for line in sys.stdin:
        test = json.loads(line)
        path = args.model or test["model"]
        try:
            if engine is None or engine.path != path:
                engine = Engine(path)
            answer = {"tokens_per_second": engine.measure(test), "layout": args.layout}
        except RuntimeError as error:
            answer = {"skip": str(error)}
        print(json.dumps(answer), flush=True)


main()
