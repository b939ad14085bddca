"""What storing and drawing cost for one step: 32 prompts with 8 samples each, among 1,000 prompts with 50 stored.

    python benchmarks/replay.py [--steps 20] [--out docs/results/replay.json]

Times both buffers, Redis on a local server that is started for it. A step draws for its prompts,
then offers their fresh continuations, half of which are worth keeping.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from local_redis import local_redis
from machine import describe
from rich.console import Console
from rich.table import Table

from gfn_jax.replay.admission import Admission
from gfn_jax.replay.buffer import ReplayBuffer, choose
from gfn_jax.replay.entry import Entry, pack_all
from gfn_jax.replay.memory import MemoryReplay
from gfn_jax.replay.redis import RedisReplay, connect

PROMPTS, STORED, BATCH, SAMPLES, DRAWN, LENGTH = 1_000, 50, 32, 8, 4, 20
VOCABULARY = [f"word{number}" for number in range(2_000)]


def make_entry(rng: np.random.Generator, score: float) -> Entry:
    """A continuation of 20 words that is a near-duplicate of no other."""
    tokens = rng.integers(0, len(VOCABULARY), LENGTH).astype(np.int32)
    terms = {name: rng.normal(size=LENGTH + 1).astype(np.float32) for name in ("log_p", "log_judge", "log_answer")}
    text = " ".join(VOCABULARY[token] for token in tokens)
    return Entry(tokens, np.ones(LENGTH + 1, bool), terms, text, score, 0)


def time_steps(buffer: ReplayBuffer, steps: int) -> dict[str, float]:
    """Median milliseconds of drawing and of storing."""
    rng = np.random.default_rng(1)
    drawing, storing = [], []
    for step in range(steps):
        prompts = [f"prompt {number}" for number in rng.choice(PROMPTS, BATCH, replace=False)]
        # Scores of stored entries are uniform on (0, 1): the better half of these is taken in.
        fresh = {
            prompt: [make_entry(rng, score) for score in np.linspace(-0.5, 0.5, SAMPLES) + rng.random() * 0.01]
            for prompt in prompts
        }
        started = time.perf_counter()
        for row, stored in enumerate(buffer.stored(prompts)):
            choose(stored, DRAWN, np.random.default_rng([0, step, row]), by_reward=True)
        drawn = time.perf_counter()
        buffer.offer(fresh)
        drawing.append(drawn - started)
        storing.append(time.perf_counter() - drawn)
    total = [sum(pair) for pair in zip(drawing, storing, strict=True)]
    milliseconds = {"draw": drawing, "store": storing, "together": total}
    return {name: round(1e3 * statistics.median(values), 2) for name, values in milliseconds.items()} | {
        "slowest": round(1e3 * max(total), 2)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rng, admission = np.random.default_rng(0), Admission(STORED, 0.25)
    filled = pack_all(
        {
            f"prompt {prompt}": sorted(
                (make_entry(rng, float(score)) for score in rng.random(STORED)), key=lambda entry: entry.order
            )
            for prompt in range(PROMPTS)
        }
    )
    results: dict[str, Any] = {"snapshot_megabytes": round(filled.nbytes / 1e6, 1)}
    with local_redis() as server:
        buffers = {"memory": MemoryReplay(admission), "redis": RedisReplay(connect(server.url, ""), "run", admission)}
        for name, buffer in buffers.items():
            started = time.perf_counter()
            buffer.restore(filled)
            restored = time.perf_counter()
            buffer.snapshot()
            whole = {"restore": restored - started, "snapshot": time.perf_counter() - restored}
            results[name] = time_steps(buffer, args.steps) | {
                f"{what}_whole_buffer": round(1e3 * seconds, 1) for what, seconds in whole.items()
            }
    table = Table(title=f"milliseconds for {BATCH} prompts x {SAMPLES} samples, {PROMPTS} prompts x {STORED} stored")
    for heading in ("", *results["memory"]):
        table.add_column(heading.replace("_", " "), justify="right" if heading else "left")
    for name in buffers:
        table.add_row(name, *map(str, results[name].values()))
    Console().print(table)
    if args.out:
        args.out.write_text(json.dumps({**results, **describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
