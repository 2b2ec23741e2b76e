#!/usr/bin/env python3
"""Load for `sterna serve`: many clients that stream, some that leave, for a while.

Every answer must be complete and equal to what the same request gave alone, and the server's memory must not grow after the
first third of the time. Needs nothing but Python.

    sterna serve demo --parallel 32 --cache-tokens 6144 --port 8080 &
    tests/clients/load.py --pid $! --seconds 180
"""

import argparse
import http.client
import json
import random
import threading
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8080)
parser.add_argument("--pid", type=int, required=True, help="the server's process, whose memory is watched (Linux)")
parser.add_argument("--clients", type=int, default=64)
parser.add_argument("--leavers", type=int, default=16, help="clients that disconnect at random, beside the others")
parser.add_argument("--seconds", type=int, default=180)
args = parser.parse_args()

STARTS = ["Once upon a time", "The fox said to the wolf", "A king had three sons, and", "In the deep forest there lived"]


def request_of(seed):
    prompt = STARTS[seed % 4] * (1 + seed % 7 * 3)
    return {"prompt": prompt, "max_tokens": 20 + seed * 7 % 90, "seed": seed, "stream": True}


def pieces(seed):
    """The pieces of a streamed answer; closing the generator closes the connection."""
    connection = http.client.HTTPConnection(args.host, args.port, timeout=300)
    try:
        body = json.dumps(request_of(seed))
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {response.read(300)!r}")
        for line in response:
            if line.startswith(b"data: "):
                yield line[6:].strip()
    finally:
        connection.close()


def answer(seed):
    events = list(pieces(seed))
    if not events or events[-1] != b"[DONE]":
        raise RuntimeError("the stream ended early")
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    if not choices[-1]["finish_reason"]:
        raise RuntimeError("the answer has no end")
    return "".join(choice["text"] for choice in choices), len(choices)


def memory():
    with open(f"/proc/{args.pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


expected = {seed: answer(seed)[0] for seed in range(48)}
print(f"{len(expected)} answers alone; {memory():.0f} MiB")

end = time.monotonic() + args.seconds
lock = threading.Lock()
done = {"answers": 0, "pieces": 0, "left": 0, "errors": []}


def client(number):
    rng = random.Random(number)
    while time.monotonic() < end:
        seed = rng.randrange(48)
        try:
            text, count = answer(seed)
            error = None if text == expected[seed] else f"seed {seed}: {text!r} is not {expected[seed]!r}"
        except Exception as raised:
            count, error = 0, f"seed {seed}: {raised!r}"
        with lock:
            done["answers"] += 1
            done["pieces"] += count
            if error:
                done["errors"].append(error)


def leaver(number):
    rng = random.Random(1000 + number)
    while time.monotonic() < end:
        stream = pieces(rng.randrange(48))
        for _ in range(rng.randrange(12)):
            next(stream, None)
        stream.close()
        with lock:
            done["left"] += 1


threads = [threading.Thread(target=client, args=(number,)) for number in range(args.clients)]
threads += [threading.Thread(target=leaver, args=(number,)) for number in range(args.leavers)]
start = time.monotonic()
for thread in threads:
    thread.start()
samples = []
while any(thread.is_alive() for thread in threads):
    time.sleep(2)
    samples.append((time.monotonic() - start, memory()))
for thread in threads:
    thread.join()
elapsed = time.monotonic() - start
settled = [mib for at, mib in samples if at > args.seconds / 3]
print(f"{done['answers']} answers, {done['left']} left early, {done['pieces'] / elapsed:.0f} pieces/s, {elapsed:.0f} s")
print(f"memory: {settled[0]:.1f} MiB after a third of the time, {max(settled):.1f} at most then, {settled[-1]:.1f} at the end")
for error in done["errors"][:5]:
    print(error)
grown = settled[-1] - settled[0]
assert not done["errors"], f"{len(done['errors'])} answers were wrong"
assert grown < 8, f"the memory grew by {grown:.1f} MiB"
