"""Seconds from the command to its first step, with an empty compilation cache and with a full one.

    python benchmarks/first_step.py [--config configs/quickstart.py] [--starts 3] [--out docs/results/first_step.json]

Compiling, the start of the judge and the validation before training are among them.
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


def seconds_to_first_step(config: str, workdir: Path, cache: Path) -> float:
    """Trains until the first step is written down, then ends the process."""
    command = [sys.executable, "-m", "gfn_jax.train", "--config", config, "--workdir", workdir]
    started = time.perf_counter()
    with subprocess.Popen(
        command, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}, stdout=subprocess.DEVNULL
    ) as process:
        try:
            while process.poll() is None:
                metrics = workdir / "metrics.jsonl"
                if metrics.exists() and "train/loss" in metrics.read_text():
                    return time.perf_counter() - started
                time.sleep(0.05)
        finally:
            process.terminate()
    raise SystemExit(f"training ended with status {process.returncode} before its first step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--starts", type=int, default=3, help="with a full cache")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        cold, *warm = (
            seconds_to_first_step(args.config, directory / f"run{number}", directory / "cache")
            for number in range(args.starts + 1)
        )
    result = {"config": args.config, "cold": cold, "warm": warm, "warm_median": statistics.median(warm), **describe()}
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
