"""Seconds of the commands of a trained run: until the first sample, a comparison with decoding, a report.

    launch/quickstart.sh --workdir runs/quickstart
    python benchmarks/command_times.py --workdir runs/quickstart [--prompts 100] [--rounds 3] [--out FILE]

Each first with an empty compilation cache, and then with what that left; medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

QUESTION = ["--subject=Mara", "--edit_fact=Mara keeps a hen."]
STORY = ["--prompt=Mara walked to the market."]


def seconds(command: list[str], cache: Path, *, until_first_line: bool) -> float:
    """Of a command until it ends, or until it prints something."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - started
        process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return first if until_first_line else time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="with a full cache")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    task = json.loads((args.workdir / "config.json").read_text())["task"]["name"]
    run = f"--workdir={args.workdir}"
    commands = {
        "sample, first line": ["gfn_jax.sample", run, *(QUESTION if task == "contradiction" else STORY)],
        f"evaluate {args.prompts} prompts": ["gfn_jax.evaluate", run, f"--prompts={args.prompts}"],
        "report": ["gfn_jax.report", run],
    }
    results = {}
    for name, command in commands.items():
        with tempfile.TemporaryDirectory() as cache:
            cold, *warm = (
                seconds(command, Path(cache), until_first_line="first line" in name) for _ in range(args.rounds + 1)
            )
        results[name] = {"cold": cold, "warm": warm, "warm_median": statistics.median(warm)}
        print(f"{name}: {cold:.1f} s with an empty cache, {statistics.median(warm):.1f} s with a full one", flush=True)
    if args.out:
        args.out.write_text(json.dumps({"task": task, "commands": results, **describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
