"""Tokens per second of llama.cpp: a prompt in one batch, then greedy generation, as JSON on standard output."""
import argparse
import ctypes
import json
import time

import llama_cpp as llama


def decode(context, tokens, position):
    """Appends `tokens`; logits of the last one."""
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, position + i, 1, 0
        batch.logits[i] = i == len(tokens) - 1
    if llama.llama_decode(context, batch) != 0:
        raise SystemExit("llama_decode failed")
    llama.llama_batch_free(batch)


def generate(context, sampler, position, count):
    for i in range(count):
        token = llama.llama_sampler_sample(sampler, context, -1)
        decode(context, [token], position + i)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, required=True)
    parser.add_argument("--generate", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()

    silent = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(args.model.encode(), llama.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp cannot load {args.model}")
    params = llama.llama_context_default_params()
    params.n_ctx = args.prompt + args.generate + 64
    params.n_batch = params.n_ubatch = args.prompt
    params.n_threads = params.n_threads_batch = args.threads
    context = llama.llama_init_from_model(model, params)
    sampler = llama.llama_sampler_init_greedy()
    memory = llama.llama_get_memory(context)
    prompt = [(i * 31 + 7) % 128_000 for i in range(args.prompt)]

    decode(context, prompt[:16], 0)  # warm-up
    generate(context, sampler, 16, 2)
    llama.llama_memory_clear(memory, True)

    start = time.perf_counter()
    decode(context, prompt, 0)
    llama.llama_synchronize(context)
    pp = args.prompt / (time.perf_counter() - start)

    llama.llama_memory_clear(memory, True)
    decode(context, prompt[:16], 0)
    llama.llama_synchronize(context)
    start = time.perf_counter()
    generate(context, sampler, 16, args.generate)
    llama.llama_synchronize(context)
    tg = args.generate / (time.perf_counter() - start)
    print(json.dumps({"pp": pp, "tg": tg}))


main()
