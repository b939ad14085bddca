"""Where the time of a next-sentence training step goes: by phase, by operation, and as a trace for the usual viewers.

    python benchmarks/profile_step.py [--model gpt2] [--prompts 4] [--dtype float32] [--read 30] [--written 8]
        [--trace DIR] [--out FILE.json]

Random weights of a published size; prompts of 40 tokens, 8 samples of up to 30, rank 64, unless --prompt_tokens,
--samples and --tokens say otherwise. Such a model hardly ever ends a sample early, as a trained one does: --written 8
cuts samples, once drawn, to lengths of a geometric distribution with this mean, and with --read 30 prompts have so many
tokens on average, from 1 to twice as many, and padding behind them; FLOPs are then not said, as those of the programs
are for the longest texts. DIR gets a trace that XProf, TensorBoard and Perfetto open. (Called
profile.py, this file would be taken for Python's own module.)
"""

import argparse
import glob
import json
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from machine import describe
from rich.console import Console
from rich.table import Table
from step_programs import StepPrograms
from step_systems import LENGTH, PROMPT, RANK, SAMPLES

from gfn_jax.config.base import base
from gfn_jax.config.reading import parse_config
from gfn_jax.models.layout import WHEREVER
from gfn_jax.models.loading import find_model, load_model
from gfn_jax.models.mesh import make_mesh, weight_shardings
from gfn_jax.planning.programs import outline
from gfn_jax.runtime.startup import configure_jax
from gfn_jax.types import Prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt2", help="an architecture's name")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--prompt_tokens", type=int, default=PROMPT)
    parser.add_argument("--read", type=int, help="mean tokens of a prompt; the rest of --prompt_tokens is padding")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of each prompt")
    parser.add_argument("--tokens", type=int, default=LENGTH, help="of a sample")
    parser.add_argument("--written", type=float, help="mean tokens of a sample, its length drawn from a geometric one")
    parser.add_argument("--microbatch", type=int, help="prompts whose gradient is computed at once; default: all")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trace", type=Path, help="where the trace of one step goes")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    raw = base()
    raw.data.path, raw.model.name_or_path, raw.model.random_init = "none", args.model, True
    raw.model.dtype, raw.model.remat = args.dtype, args.remat
    raw.model.lora.rank = raw.model.lora.alpha = RANK
    raw.sampling.samples_per_prompt, raw.sampling.max_len = args.samples, args.tokens
    raw.data.prompt_buckets = (args.prompt_tokens,)
    raw.train.prompts_per_step, raw.train.microbatch_prompts = args.prompts, args.microbatch or args.prompts
    config = parse_config(raw.to_dict())
    configure_jax(args.dtype)
    mesh, found = make_mesh(1, 1), find_model(config.model, WHEREVER)
    shardings = weight_shardings(mesh, found.structure, fsdp=False)
    adapter, frozen, _ = load_model(found, mesh, shardings, config.seed)
    step = outline(config, found.structure, mesh)
    functions = step.functions
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, found.structure.architecture.vocab_size, (args.prompts, args.prompt_tokens), np.int32)
    length = np.full(args.prompts, args.prompt_tokens, np.int32)
    if args.read:
        length = np.minimum(rng.integers(1, 2 * args.read, args.prompts, np.int32), length)
    prompts = step.context.rows.place(Prompts(tokens, length))  # pyright: ignore
    state = functions.init(adapter)

    def run(number: int) -> dict[str, float]:
        """One step; the seconds of its phases."""
        nonlocal state
        seconds, started = {}, time.perf_counter()

        def phase(name: str, result: Any) -> Any:
            nonlocal started
            jax.block_until_ready(result)
            seconds[name], started = time.perf_counter() - started, time.perf_counter()
            return result

        trajectories = phase("sample", functions.sample(state.adapter, frozen, prompts, number))
        if args.written:
            lengths = np.random.default_rng(number).geometric(1 / args.written, len(trajectories.length_N))
            written = np.minimum(lengths, args.tokens).astype(np.int32)
            given = trajectories.replace(length_N=step.context.rows.place(written))
            trajectories = phase("cut", given)
        components = phase("likelihood", step.reward.components(frozen, (), prompts, trajectories))
        state, _ = phase("update", functions.update(state, frozen, prompts, trajectories, components, None))
        return seconds

    run(0)
    timed = [run(number) for number in range(1, args.repeats + 1)]
    with tempfile.TemporaryDirectory() as place:
        trace = args.trace or Path(place)
        with jax.profiler.trace(trace):
            run(args.repeats + 1)
        operations = slowest(trace)
    programs = StepPrograms(config, found.structure.architecture, args.prompt_tokens)

    phases = {}
    for name, program in programs.programs.items():
        seconds, tflop = statistics.median(each[name] for each in timed), program.flops / 1e12
        phases[name] = {"seconds": seconds, "gb_beside_weights": programs.temporary[name] / 1e9}
        if not args.written and not args.read:
            phases[name] |= {"tflop": tflop, "tflops": tflop / seconds}
    result = {
        "model": args.model,
        "dtype": args.dtype,
        "prompts": args.prompts,
        "tokens": {
            "prompt": args.prompt_tokens,
            "sample": args.tokens,
            "samples": args.samples,
            "read": args.read,
            "written": args.written,
        },
        "phases": phases,
        "peak_gb": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e9,
        "trajectories_per_s": args.prompts * args.samples / sum(phase["seconds"] for phase in phases.values()),
        "operations": operations,
        **describe(),
    }
    table = Table("phase", "s", "share", "TFLOP", "TFLOP/s", "GB beside weights")
    whole = sum(phase["seconds"] for phase in phases.values())
    for name, phase in phases.items():
        share = f"{phase['seconds'] / whole:.0%}"
        table.add_row(
            name,
            f"{phase['seconds']:.3f}",
            share,
            *(f"{phase[part]:.3f}" if part in phase else "" for part in ("tflop", "tflops", "gb_beside_weights")),
        )
    console = Console()
    console.print(table)
    if result["peak_gb"]:
        console.print(f"at most {result['peak_gb']:.2f} GB of the device at once")
    table = Table("operation", "s", "runs")
    for name, seconds, times in operations:
        table.add_row(name, f"{seconds:.3f}", str(times))
    console.print(table)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def slowest(trace: Path, count: int = 25) -> list[tuple[str, float, int]]:
    """The operations that the traced step spent most time in: name, seconds, times."""
    seconds: Counter[str] = Counter()
    times: Counter[str] = Counter()
    (file,) = glob.glob(f"{trace}/**/*.xplane.pb", recursive=True)
    for plane in jax.profiler.ProfileData.from_file(file).planes:
        for line in plane.lines:
            for event in line.events:
                statistics = dict(event.stats)
                if "hlo_op" in statistics:
                    name = f"{statistics.get('hlo_module', '')} {event.name}"
                    seconds[name] += event.duration_ns / 1e9
                    times[name] += 1
    return [(name, value, times[name]) for name, value in seconds.most_common(count)]


if __name__ == "__main__":
    main()
