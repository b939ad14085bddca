"""Does a real language model learn to draw random numbers? Three seeds, two targets, and a control.

    python data/fetch.py smollm2
    python benchmarks/random_number.py [--workdir runs/random_numbers] [--out FILE.json] [--plot FILE.png]

Trains `configs/random_number_smollm2.py` by the ordinary command: towards the uniform distribution over 0 to 100 and
towards a Poisson distribution, with three seeds each, and towards both by the objective that maximises the expected
log R instead. All figures are exact: the distribution over all that the policy can write is listed. A finished run is
kept, and the same command goes on with the others: 8 runs of about five minutes each on two CPU cores.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from matplotlib.figure import Figure
from run_files import json_lines

from gfn_jax.reporting.palette import PRINTED
from gfn_jax.reporting.svg import plain

CONFIG = "configs/random_number_smollm2.py"
POISSON = ["--config.task.options.target=poisson", "--config.task.options.low=20", "--config.task.options.high=60"]
TARGETS = {"uniform": [], "poisson": POISSON}
MAXIMISING = [
    "--config.objective.name=reinforce",
    "--config.sampling.temperature_prob=0.0",
    "--config.replay.fraction=0.0",
]
CONTROL = "control"


def runs(seeds: int) -> dict[str, list[str]]:
    """The flags of every run by its name."""
    named = {
        f"{target}-{seed}": [*flags, f"--config.seed={seed}"]
        for target, flags in TARGETS.items()
        for seed in range(seeds)
    }
    return named | {f"{target}-{CONTROL}": [*flags, *MAXIMISING] for target, flags in TARGETS.items()}


def train(workdir: Path, flags: list[str]) -> None:
    """The run, unless it is there; beside it how long the command took in all."""
    seconds = workdir / "seconds.json"
    if seconds.exists():
        return
    started = time.perf_counter()
    command = [sys.executable, "-m", "gfn_jax.train", "--config", CONFIG, "--workdir", str(workdir), *flags]
    subprocess.run(command, check=True)
    seconds.write_text(json.dumps(time.perf_counter() - started))


def measure(workdir: Path) -> dict[str, Any]:
    """The exact figures before, on the way and after."""
    rows = json_lines(workdir / "metrics.jsonl")
    validations = [row for row in rows if "val/kl" in row]
    distribution = json_lines(workdir / "distribution.jsonl")[-1]
    likeliest = int(np.argmax(distribution["policy"]))
    names = ("kl", "total_variation", "invalid_mass")
    return {
        "before": {name: validations[0][f"val/{name}"] for name in names},
        "after": {name: validations[-1][f"val/{name}"] for name in names},
        "kl_by_step": {str(row["step"]): row["val/kl"] for row in validations},
        "likeliest": {
            "number": distribution["outcomes"][likeliest],
            "policy": distribution["policy"][likeliest],
            "target": distribution["target"][likeliest],
        },
        "training_seconds": sum(row["train/seconds"] for row in rows if "train/seconds" in row),
        "command_seconds": json.loads((workdir / "seconds.json").read_text()),
    }


def plot(workdir: Path, file: Path) -> None:
    """Before, after and the control, each over its target."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    grid = figure.subplots(2, 3)
    for row, target in zip(grid, TARGETS, strict=True):
        before, *_, after = json_lines(workdir / f"{target}-0" / "distribution.jsonl")
        *_, control = json_lines(workdir / f"{target}-{CONTROL}" / "distribution.jsonl")
        highest = 2.2 * max(after["target"])
        shown = {"frozen model": before, "GFlowNet policy": after, "maximising the reward": control}
        for axes, (title, drawn) in zip(row, shown.items(), strict=True):
            plain(axes, PRINTED)
            numbers = [int(number) for number in drawn["outcomes"]]
            axes.bar(numbers, drawn["policy"], width=1.0, color=PRINTED.series(0))
            axes.step(numbers, drawn["target"], where="mid", color=PRINTED.series(1), lw=1.2, label="target")
            axes.set(ylim=(0, highest), xlim=(min(numbers) - 1, max(numbers) + 1))
            axes.set_title(f"{title}: KL {drawn['kl']:.3g} nats", size=10)
            if max(drawn["policy"]) > highest:
                top = int(np.argmax(drawn["policy"]))
                axes.annotate(
                    f"{numbers[top]}: {drawn['policy'][top]:.0%}",
                    (numbers[top], highest),
                    (8, -12),
                    textcoords="offset points",
                    size=8,
                )
        row[0].set_ylabel(f"probability ({target} target)", size=9)
        row[0].legend(fontsize=8, frameon=False, loc="upper right")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/random_numbers"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of training; default: the configuration's")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    measured, steps = {}, [f"--config.train.steps={args.steps}"] if args.steps else []
    for name, flags in runs(args.seeds).items():
        train(args.workdir / name, [*flags, *steps])
        measured[name] = measure(args.workdir / name)
        print(name, json.dumps(measured[name]["after"]), f"{measured[name]['command_seconds']:.0f} s", flush=True)
    if args.out:
        args.out.write_text(json.dumps({"runs": measured, **describe()}, indent=1) + "\n")
    if args.plot:
        plot(args.workdir, args.plot)


if __name__ == "__main__":
    main()
