"""Does the quickstart learn to ask what contradicts? Against the truth, a control and the target itself.

    python benchmarks/contradiction.py [--seeds 3] [--samples 4096] [--workdir runs/contradiction] [--out FILE]

Trains the quickstart with several seeds, once with the contradiction component at weight 0, and once without
drawing ahead; compares each policy's questions about held-out subjects with the truth of the miniature
world, and with the importance-weighted reference. About five minutes a seed on two CPU cores.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from rich.console import Console
from run_files import json_lines

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "data" / "miniworld"))

from people import Cast, World

# gfn_jax is imported where it is used: the judge's workers import this file again, and need no jax.


def by_fact(workdir: Path, step: int) -> dict[str, list[dict]]:
    """The samples of a step, fact by fact."""
    samples = defaultdict(list)
    for row in json_lines(workdir / "samples.jsonl"):
        if row["step"] == step:
            samples[row["edit_fact"]].append(row)
    return samples


def measure(workdir: Path, step: int, world: World) -> dict[str, float | int]:
    """Means over held-out facts."""
    samples = by_fact(workdir, step)
    figures = next(row for row in json_lines(workdir / "metrics.jsonl") if row["step"] == step and "val/elbo" in row)
    is_true = [[world.contradicts(fact, row["continuation"]) for row in rows] for fact, rows in samples.items()]
    return {
        "facts": len(samples),
        "subjects": len({rows[0]["subject"] for rows in samples.values()}),
        "contradiction_rate_nli": figures["val/contradiction_rate"],
        "contradiction_rate_truth": float(np.mean(is_true)),
        "distinct_contradicting": figures["val/distinct_contradicting"],
        "mixture_log_ratio_var_median": figures["val/mixture_log_ratio_var_median"],
        "mixture_log_ratio_var": figures["val/mixture_log_ratio_var"],
        "elbo": figures["val/elbo"],
    }


def elbo_change(workdir: Path, last: int) -> dict[str, float]:
    """The mean change of elbo over facts, with its 95% interval."""

    def elbo(rows: list[dict]) -> float:
        return float(np.mean([row["log_r"] - row["log_pf"] for row in rows]))

    before, after = by_fact(workdir, 0), by_fact(workdir, last)
    from gfn_jax.evaluation.intervals import bootstrap_interval

    change = np.array([elbo(after[fact]) - elbo(before[fact]) for fact in before])
    interval = bootstrap_interval(change)
    return {"mean": float(change.mean()), "low": interval.low, "high": interval.high}


def compare_with_target(workdir: Path, samples: int) -> dict[str, float]:
    """The policy against the importance-weighted reference, fact by fact."""
    from gfn_jax.config.reading import read_run_config
    from gfn_jax.evaluation.reference import References
    from gfn_jax.experiment.examples import Examples
    from gfn_jax.experiment.experiment import build
    from gfn_jax.text.prompts import normalised

    config = read_run_config(workdir)
    policy = by_fact(workdir, config.train.steps)
    rows, rng = defaultdict(list), np.random.default_rng(0)
    with build(config) as experiment:
        examples = Examples.load(experiment.task, config.seed).validation
        references = References(experiment, examples, samples)
        for number, example in enumerate(examples):
            (reference,) = references.of([number])
            contradicts = np.exp(reference.components["log_contradiction"]) > 0.5
            drawn = reference.draw(config.eval.samples_per_prompt, rng)
            asked = policy[example.edit_fact]
            rows["effective_sample_size"].append(reference.effective_sample_size)
            rows["reference_rate"].append(float(reference.weights[contradicts].sum()))
            rows["policy_rate"].append(float(np.mean([row["p_contradiction"] > 0.5 for row in asked])))
            texts = [reference.texts[index] for index in drawn if contradicts[index]]
            rows["reference_distinct"].append(len(set(map(normalised, texts))))
            hits = [row["continuation"] for row in asked if row["p_contradiction"] > 0.5]
            rows["policy_distinct"].append(len(set(map(normalised, hits))))
            rows["gap_to_log_z"].append(
                reference.log_z - float(np.mean([row["log_r"] - row["log_pf"] for row in asked]))
            )
    means = {name: float(np.mean(values)) for name, values in rows.items()}
    return means | {
        "effective_sample_size_min": min(rows["effective_sample_size"]),
        "rate_difference": means["policy_rate"] - means["reference_rate"],
        "distinct_share": means["policy_distinct"] / means["reference_distinct"],
    }


def run(workdir: Path, world: World, **overrides: Any) -> dict:
    """Trains the quickstart by its command, and reads what it left."""
    shutil.rmtree(workdir, ignore_errors=True)
    # More probes than there are facts: every validation sample goes into samples.jsonl.
    flags = [f"--config.{key}={value}" for key, value in {"eval.probes": 1_000, **overrides}.items()]
    command = ["-m", "gfn_jax.train", "--config", "configs/quickstart.py", "--workdir", str(workdir), *flags]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    last = json.loads((workdir / "config.json").read_text())["train"]["steps"]
    steps = [row for row in json_lines(workdir / "metrics.jsonl") if "train/loss" in row]
    phases = ("sampling", "answering", "judging", "update")
    return {
        **overrides,
        "before": measure(workdir, 0, world),
        "after": measure(workdir, last, world),
        "elbo_change": elbo_change(workdir, last),
        "training_seconds": sum(row["train/seconds"] for row in steps),
        "median_step_seconds": {
            phase: float(np.median([row.get(f"time/{phase}", 0.0) for row in steps])) for phase in phases
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of training; default: the quickstart's")
    parser.add_argument("--samples", type=int, default=4096, help="of the frozen model for each fact's reference")
    parser.add_argument("--workdir", type=Path, default=Path("runs/contradiction"), help="what is there is replaced")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    console, world = Console(), World(Cast.of_the_world().known)
    steps = {"train.steps": args.steps} if args.steps else {}

    result: dict = {"runs": [], **describe()}
    for seed in range(args.seeds):
        workdir = (args.workdir / f"seed_{seed}").absolute()
        figures = run(workdir, world, seed=seed, **steps)
        figures["target"] = compare_with_target(workdir, args.samples)
        console.print_json(data=figures)
        result["runs"].append(figures)
    control = (args.workdir / "control").absolute()
    result["without_the_contradiction_component"] = run(control, world, **{"reward.contradiction_weight": 0.0}, **steps)
    flat = (args.workdir / "depth_0").absolute()
    result["without_overlap"] = run(flat, world, **{"train.pipeline_depth": 0}, **steps)["median_step_seconds"]
    console.print_json(data=result)
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
