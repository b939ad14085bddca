"""Does anything grow without bound? A long run of the miniature, its memory, its pace and its files.

    python benchmarks/soak.py [--kind prompts|questions|both] [--steps 5000] [--out docs/results/soak.json]

    prompts    next sentences for prompts that never come again, with replay: what is remembered is never drawn, and
               before memory counts there is as much of it as `replay.total` lets in
    questions  contradictory questions, with the judge and its caches

Every few seconds the resident memory of the run's processes is read, and the step that it has come to. Of memory and
of the seconds a step the slope over the steps after `--settled`, and over the second half of all steps, is printed with
its 95% interval (Theil and Sen), of the run's directory the size of every kind of file. The report that ends a run
does not count. Ends with status 1 where memory grows by more than `--most` MB a thousand steps in the second half, by
the interval's lower end.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from machine import describe
from processes import heed_sigterm
from rich.console import Console
from run_files import json_lines
from scipy.stats import theilslopes

ROOT = Path(__file__).resolve().parents[1]
PROMPTS_A_STEP = 4
KINDS = {
    "prompts": (
        "configs/next_sentence_mini.py",
        {
            "replay.fraction": 0.25,
            "replay.total": 5_000,
            "sampling.samples_per_prompt": 4,
            "sampling.max_len": 8,
            "data.val_prompts": 8,
        },
    ),
    "questions": ("configs/quickstart.py", {"sampling.samples_per_prompt": 4}),
}


def new_prompts(count: int, file: Path) -> None:
    """Writes prompts, no two of them equal: words of the miniature's own, in any order."""
    rng = random.Random(0)
    words = sorted(set((ROOT / "data" / "miniworld" / "prompts.txt").read_text().replace(".", "").split()))
    found: set[str] = set()
    while len(found) < count:
        found.add(" ".join(rng.choices(words, k=6)) + ".")
    file.write_text("".join(f"{prompt}\n" for prompt in sorted(found)))


def resident_mb(process: psutil.Process) -> float:
    """Of the process and of all that it started."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def last_step(figures: Path) -> int:
    """The step that a run has come to, whose last line may not be whole."""
    lines = figures.read_bytes().split(b"\n")[:-1] if figures.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def slope(measured: list[tuple[int, float]], since: int) -> dict[str, float]:
    """The change in a thousand steps of (step, value), from a step on, and its 95% interval."""
    steps, values = zip(*((step, value) for step, value in measured if step > since), strict=True)
    mean, _, low, high = map(float, theilslopes(values, steps, 0.95))
    return {"mean": 1000 * mean, "low": 1000 * low, "high": 1000 * high}


def soak(kind: str, args: argparse.Namespace, directory: Path, console: Console) -> dict:
    config, settings = KINDS[kind]
    if kind == "prompts":
        new_prompts(PROMPTS_A_STEP * args.steps + 100, directory / "prompts.txt")
        settings = settings | {"data.path": directory / "prompts.txt"}
    settings = settings | {
        "train.steps": args.steps,
        "train.decay_steps": args.steps,
        "train.prompts_per_step": PROMPTS_A_STEP,
        "train.microbatch_prompts": PROMPTS_A_STEP,
        "train.eval_every": max(1, args.steps // 5),
        "train.checkpoint_every": max(1, args.steps // 10),
        "eval.samples_per_prompt": 4,
    }
    workdir = directory / kind
    command = [sys.executable, "-m", "gfn_jax.train", f"--config={config}", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    figures, memory = workdir / "metrics.jsonl", []
    with (directory / f"{kind}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            until = time.monotonic() + args.limit_s
            shown = time.monotonic()
            while process.poll() is None:
                if time.monotonic() > until:
                    raise RuntimeError(f"{kind}: not done within {args.limit_s:.0f} s")
                step = last_step(figures)
                memory.append((step, resident_mb(psutil.Process(process.pid))))
                if time.monotonic() - shown > 60:
                    shown = time.monotonic()
                    console.print(f"{kind}: step {step}, {memory[-1][1]:.0f} MB")
                time.sleep(args.every_s)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise RuntimeError(
            f"{kind} ended with status {process.returncode}: {(directory / f'{kind}.log').read_text()[-2000:]}"
        )
    seconds = [(row["step"], row["train/seconds"]) for row in json_lines(figures) if "train/seconds" in row]
    settled = [(step, value) for step, value in memory if args.settled < step < args.steps]
    sizes: Counter[str] = Counter()
    for file in workdir.rglob("*"):
        if file.is_file():
            sizes[file.relative_to(workdir).parts[0]] += file.stat().st_size
    return {
        "steps": args.steps,
        "settled_after": args.settled,
        "resident_mb": {"first": settled[0][1], "last": settled[-1][1], "most": max(value for _, value in settled)},
        "seconds_a_step": statistics.median(value for _, value in seconds),
        **{
            name: {
                "resident_mb_a_thousand_steps": slope(settled, since),
                "seconds_a_thousand_steps": slope(seconds, since),
            }
            for name, since in (("settled", args.settled), ("second_half", args.steps // 2))
        },
        "megabytes": {name: size / 1e6 for name, size in sorted(sizes.items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=[*KINDS, "both"], default="both")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--settled", type=int, default=500, help="steps that do not count yet")
    parser.add_argument("--most", type=float, default=20.0, help="MB a thousand steps")
    parser.add_argument("--every_s", type=float, default=5.0)
    parser.add_argument("--limit_s", type=float, default=4 * 3600.0, help="for each kind")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    heed_sigterm()
    console, results = Console(), {}
    for kind in KINDS if args.kind == "both" else [args.kind]:
        with tempfile.TemporaryDirectory(prefix="gfn_jax_soak_") as directory:
            results[kind] = soak(kind, args, Path(directory), console)
        console.print_json(data={kind: results[kind]})
        if args.out:
            args.out.write_text(json.dumps({**results, **describe()}, indent=1) + "\n")
    if any(each["second_half"]["resident_mb_a_thousand_steps"]["low"] > args.most for each in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
