"""Does the same seed give the same run on any mesh, in any number of processes?

    python benchmarks/invariance.py [--steps 20] [--tasks TASK ...] [--settings SETTING ...] [--layouts LAYOUT ...]
        [--out docs/results/invariance.json]

Trains the miniature on virtual devices over meshes and processes joined on loopback, with both replay
buffers and on both tasks, and compares each run with that of one device: the sampled tokens of every
step, and the metrics. In float64 tokens must be the same and metrics within 1e-9; in float32 within 1e-4
until rounding changes the first token.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from local_redis import local_redis
from machine import describe
from processes import Run, heed_sigterm
from rich.console import Console
from run_files import json_lines, without_times

LIMIT_S = 540.0
LAYOUTS = {  # processes, devices of each, mesh.data, mesh.model
    "1x1": (1, 1, 1, 1),
    "4x1": (1, 4, 4, 1),
    "2x2": (1, 4, 2, 2),
    "1x4": (1, 4, 1, 4),
    "2x2 fsdp": (1, 4, 2, 2),
    "4x1 in 2 processes": (2, 2, 4, 1),
    "2x2 in 2 processes": (2, 2, 2, 2),
    "4x1 in 4 processes": (4, 1, 4, 1),
}
CONFIGS = {"next_sentence": "configs/next_sentence_mini.py", "contradiction": "configs/quickstart.py"}
SETTINGS = {  # dtype, and where replay is kept
    "float64": ("float64", "memory"),
    "redis": ("float64", "redis"),
    "float32": ("float32", "memory"),
}
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
SHORT = {
    "train.prompts_per_step": 8,
    "train.microbatch_prompts": 4,
    "train.checkpoint_every": 1000,
    "train.eval_every": 10,
    "train.pipeline_depth": 1,
    "sampling.samples_per_prompt": 4,
    "sampling.max_len": 10,
    "eval.samples_per_prompt": 4,
    "eval.prompts_per_batch": 8,
    "eval.probes": 2,
    "replay.fraction": 0.25,
    "reward.answers.max_new_tokens": 12,
}


def run_settings(layout: str, steps: int, dtype: str, backend: str, url: str) -> dict:
    _, _, data, model = LAYOUTS[layout]
    return SHORT | {
        "train.steps": steps,
        "mesh.data": data,
        "mesh.model": model,
        "mesh.fsdp": "fsdp" in layout,
        "model.dtype": dtype,
        "replay.backend": backend,
        "replay.url": url,
    }


def train(workdir: Path, layout: str, config: str, settings: dict) -> tuple[list[np.ndarray], list[dict]]:
    """A run's sampled tokens, step by step, and its metrics."""
    processes, devices, _, _ = LAYOUTS[layout]
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [str(Path(__file__).with_name("train_and_record.py")), f"--config={config}", f"--workdir={workdir}"]
    with Run([*command, *overrides], processes=processes, devices=devices, log=workdir.with_suffix(".log")) as run:
        run.finish(LIMIT_S)
    with np.load(workdir / "tokens.npz") as recorded:
        tokens = [recorded[name] for name in sorted(recorded.files, key=int)]
    return tokens, without_times(json_lines(workdir / "metrics.jsonl"))


def compare(ours: tuple, theirs: tuple) -> dict:
    """Up to which step the tokens are the same, and the largest relative difference of a metric until then."""
    same = [bool(np.array_equal(a, b)) for a, b in zip(ours[0], theirs[0], strict=True)]
    steps = len(same) if all(same) else same.index(False)
    difference = 0.0
    for mine, its in zip(ours[1], theirs[1], strict=True):
        if mine["step"] <= steps:
            assert mine.keys() == its.keys(), mine.keys() ^ its.keys()
            for name, value in mine.items():
                difference = max(difference, abs(value - its[name]) / max(abs(value), 1.0))
    return {"steps_with_the_same_tokens": steps, "largest_difference_of_a_metric": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tasks", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS), help="beside 1x1")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    heed_sigterm()
    console, results, failed = Console(), {}, []
    cases = [(task, *SETTINGS[setting]) for task in args.tasks for setting in args.settings]
    with local_redis() as server, tempfile.TemporaryDirectory(prefix="gfn_jax_invariance_") as directory:
        for task, dtype, backend in cases:
            reference = None
            for layout in dict.fromkeys(["1x1", *args.layouts]):
                name = f"{task}, {dtype}, {backend}, {layout}"
                settings = run_settings(layout, args.steps, dtype, backend, server.url)
                started = time.perf_counter()
                got = train(Path(directory) / name.replace(" ", "_").replace(",", ""), layout, CONFIGS[task], settings)
                reference = reference or got
                results[name] = compare(got, reference)
                steps, difference = results[name].values()
                is_good = difference <= TOLERANCE[dtype] and steps >= (args.steps if dtype == "float64" else 1)
                failed += [] if is_good else [name]
                console.print(
                    f"{name}: the same tokens for {steps} of {args.steps} steps, metrics within {difference:.1e}"
                    f"{'' if is_good else '  TOO FAR'}  ({time.perf_counter() - started:.0f} s)",
                    soft_wrap=True,
                )
                if args.out:
                    written = {"steps": args.steps, "runs": results, **describe()}
                    args.out.write_text(json.dumps(written, indent=1) + "\n")
    if failed:
        sys.exit(f"differing: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
