"""Draws what a run learned: log π against log R of its probes before and after, and its validation curves.

    python benchmarks/plot_run.py --workdir runs/stories --out docs/next_sentence_mini.png [--results FILE.json]

With --results it also writes down the first and the last validation, commit and machine.
"""

import argparse
import json
from pathlib import Path

from machine import describe
from matplotlib.figure import Figure
from run_files import json_lines

from gfn_jax.reporting.balance import clouds, draw_balance, limits
from gfn_jax.reporting.curves import Curve, draw_curve
from gfn_jax.reporting.palette import PRINTED
from gfn_jax.reporting.svg import plain
from gfn_jax.runs.record import RunRecord, read_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    metrics = json_lines(args.workdir / "metrics.jsonl")
    if args.results:
        measured = [row for row in metrics if "val/elbo" in row]
        seconds = sum(row["train/seconds"] for row in metrics if "train/seconds" in row)
        result = {"before": measured[0], "after": measured[-1], "training_seconds": seconds, **describe()}
        args.results.write_text(json.dumps(result, indent=1) + "\n")
    draw(read_run(args.workdir)).savefig(args.out, dpi=110)


def draw(record: RunRecord) -> Figure:
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    *sides, variance = figure.subplots(1, 3)
    elbo = variance.twinx()
    for axes in (*sides, variance, elbo):
        plain(axes, PRINTED)

    samples = record.samples
    steps = samples[0]["step"], samples[-1]["step"]
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(row["prompt"] for row in samples))}
    drawn = [clouds(samples, step) for step in steps]
    of_both = limits([cloud for side in drawn for cloud in side])
    for axes, side, title in zip(sides, drawn, ("before training", f"after {steps[1]} steps"), strict=True):
        draw_balance(axes, side, numbers, of_both, PRINTED)
        axes.set_title(title, size=10)

    for number, (name, label, axes) in enumerate(
        (
            ("mixture_log_ratio_var", "log-ratio variance of the mixture, mean", variance),
            ("mixture_log_ratio_var_median", "log-ratio variance of the mixture, median", variance),
            ("elbo", "elbo (right)", elbo),
        )
    ):
        draw_curve(axes, Curve(label, *record.series(f"val/{name}", of_validation=True)), PRINTED.series(number))
    variance.set(xlabel="optimiser step", ylim=(0, None))
    variance.set_title("validation prompts", size=10)
    elbo.grid(visible=False)
    lines = [*variance.get_lines(), *elbo.get_lines()]
    variance.legend(lines, [str(line.get_label()) for line in lines], fontsize=8, loc="center right", frameon=False)
    return figure


if __name__ == "__main__":
    main()
