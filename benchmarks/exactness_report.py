"""Tables and a plot of what benchmarks/exactness.py measured.

    python benchmarks/exactness_report.py FILE.json ... [--out docs/results/exactness.json] [--plot docs/exactness.png]

Prints how far each objective ends from each target and, objective against objective, how many steps
each took. With --out the rows of several files become one.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from gfn_jax.objectives import OBJECTIVES


def _select(rows: Sequence[dict], **wanted) -> list[dict]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _sorted(rows: Sequence[dict]) -> list[dict]:
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    objectives = list(OBJECTIVES)
    return sorted(
        rows,
        key=lambda row: (
            problems.index(row["problem"]),
            row["off_policy"],
            objectives.index(row["objective"]),
            row["seed"],
        ),
    )


def write(result: dict, file: Path) -> None:
    """Writes a result, each of its rows on a line of its own."""
    rows = ",\n".join(json.dumps(row) for row in result["rows"])
    rest = json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1)
    file.write_text(f'{rest[:-2]},\n "rows": [\n{rows}\n]}}\n')


def print_table(console: Console, rows: Sequence[dict]) -> None:
    table = Table(title="total variation from R / Z: the worst of all seeds; below 0.01 is the goal")
    for heading in ("problem", "objective", "", "seeds", "TV", "KL", "log-ratio var", "elbo - log Z", "steps to 0.05"):
        table.add_column(heading, justify="left" if heading in ("problem", "objective", "") else "right")
    rows = _sorted(rows)
    keys = list(dict.fromkeys((row["problem"], row["off_policy"], row["objective"]) for row in rows))
    for problem, off_policy, objective in keys:
        mine = _select(rows, problem=problem, off_policy=off_policy, objective=objective)
        worst = {key: max(row[key] for row in mine) for key in ("total_variation", "kl", "own_log_ratio_var")}
        steps = [row["steps_to_0.05"] for row in mine]
        table.add_row(
            problem,
            objective,
            "off-policy" if off_policy else "on-policy",
            str(len(mine)),
            f"{worst['total_variation']:.4f}",
            f"{worst['kl']:.5f}",
            f"{worst['own_log_ratio_var']:.5f}",
            f"{min(row['elbo_minus_log_z'] for row in mine):+.5f}",
            "never" if None in steps else f"{np.median(steps):.0f}",
        )
    console.print(table)


def print_speeds(console: Console, rows: Sequence[dict]) -> None:
    """Steps until the total variation is below 0.05: the median of the seeds, and their range."""
    table = Table(title="optimiser steps until the total variation is below 0.05: median of the seeds (their range)")
    rows = _sorted(rows)
    table.add_column("problem")
    for objective in OBJECTIVES:
        table.add_column(objective, justify="right")
    for problem, off_policy in dict.fromkeys((row["problem"], row["off_policy"]) for row in rows):
        cells = []
        for objective in OBJECTIVES:
            mine = _select(rows, problem=problem, off_policy=off_policy, objective=objective)
            steps = [row["steps_to_0.05"] or np.inf for row in mine]
            cells.append(f"{np.median(steps):.0f} ({min(steps):.0f}-{max(steps):.0f})" if steps else "")
        table.add_row(f"{problem}{', off-policy' if off_policy else ''}", *cells)
    console.print(table)


def plot(rows: Sequence[dict], file: Path) -> None:
    """The total variation along each on-policy run, a panel for each problem."""
    import matplotlib.pyplot as plt

    rows = _sorted(_select(rows, off_policy=False))
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    across = min(4, len(problems))
    down = -(-len(problems) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(3.2 * across, 2.8 * down), sharey=True, layout="constrained", squeeze=False
    )
    for panel, problem in zip(axes.flat, problems, strict=False):
        for number, objective in enumerate(OBJECTIVES):
            for row in _select(rows, problem=problem, objective=objective):
                label = objective if row["seed"] == 0 else None
                panel.semilogy(*zip(*row["curve"], strict=True), color=f"C{number}", label=label, lw=1)
        panel.axhline(0.01, color="grey", ls=":", lw=0.8)
        panel.set(title=problem, xlabel="optimiser step")
    for panel in axes.flat[len(problems) :]:
        panel.axis("off")
    for row in axes:
        row[0].set_ylabel("total variation from R / Z")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=130)
    results = [json.loads(file.read_text()) for file in args.files]
    rows = _sorted([row for result in results for row in result["rows"]])
    print_table(console, rows)
    print_speeds(console, rows)
    if args.out:
        commits = sorted({result["commit"] for result in results})
        write(results[0] | {"rows": rows, "commit": " and ".join(commits)}, args.out)
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
