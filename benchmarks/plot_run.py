"""Draws what a run learned: log π against log R of its probes before and after, and its validation curves.

    python benchmarks/plot_run.py --workdir runs/stories --out docs/next_sentence_mini.png [--results FILE.json]

With --results it also writes down the first and the last validation, commit and machine.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from machine import describe
from run_files import json_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    samples, metrics = json_lines(args.workdir / "samples.jsonl"), json_lines(args.workdir / "metrics.jsonl")
    measured = [row for row in metrics if "val/elbo" in row]
    last = measured[-1]["step"]
    if args.results:
        seconds = sum(row["train/seconds"] for row in metrics if "train/seconds" in row)
        result = {"before": measured[0], "after": measured[-1], "training_seconds": seconds, **describe()}
        args.results.write_text(json.dumps(result, indent=1) + "\n")

    figure, (before, after, curves) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    prompts = list(dict.fromkeys(row["prompt"] for row in samples))
    lowest = {key: np.quantile([row[key] for row in samples], 0.01) - 1 for key in ("log_r", "log_pf")}
    for axes, step, title in ((before, 0, "before training"), (after, last, f"after {last} steps")):
        for number, prompt in enumerate(prompts):
            rows = [row for row in samples if row["step"] == step and row["prompt"] == prompt]
            log_r, log_pf = (np.array([row[key] for row in rows]) for key in ("log_r", "log_pf"))
            axes.scatter(log_r, log_pf, s=14, alpha=0.7, color=f"C{number}")
            centre = log_r.mean(), (log_pf - log_r).mean() + log_r.mean()
            axes.axline(centre, slope=1, color=f"C{number}", lw=0.7, alpha=0.6)
        axes.set(xlabel="log R(y)", title=title, xlim=(lowest["log_r"], 0), ylim=(lowest["log_pf"], 0))
    before.set_ylabel("log π(y)")
    steps = [row["step"] for row in measured]
    curves.plot(steps, [row["val/log_ratio_var"] for row in measured], "o-", label="log-ratio variance, mean")
    curves.plot(steps, [row["val/log_ratio_var_median"] for row in measured], "o-", label="log-ratio variance, median")
    curves.set(xlabel="optimiser step", ylim=(0, None), title="validation prompts")
    elbo = curves.twinx()
    elbo.plot(steps, [row["val/elbo"] for row in measured], "s--", color="C3", label="elbo (right)")
    lines = [line for axes in (curves, elbo) for line in axes.get_lines()]
    curves.legend(lines, [str(line.get_label()) for line in lines], fontsize=8, loc="center right")
    for axes in (before, after, curves, elbo):
        axes.spines["top"].set_visible(False)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
