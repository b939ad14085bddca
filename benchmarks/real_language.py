"""Both tasks with a real language model on real English: trains every run, compares it with decoding, and goes on.

    python data/fetch.py smollm2
    python data/fetch.py minilm
    python benchmarks/real_language.py --workdir runs/real --out docs/results/real_language \
        --prompts FILE [--facts FILE --held_out FILE] [--minutes 60] [--only PART] [FLAG ...]

FILEs are prompts, one on each line, and fact edits to train on and to validate with, such as
`data/smollm2/write_facts.py` makes of those that `data/zsre/convert.py` writes. The questions ask `data/nli/judge` and,
as the second judge, `data/nli/judge_second`, which `data/nli/train_judge.py` makes of two halves (--half first,
--half second --seed 1).

--out is a directory with a file for each run, and all of them together in `summary.json` and `frontier.png`. A run
that has its file there is not made again, whatever the code has become since: each says of which commit it is. So the
runs may be made on several machines, one after the other. Of a run whose files came from another machine, without
checkpoints but with the exported policy as `adapter`, the policy is compared here. No run begins after the minutes are
over. Ways to decode the frozen model are compared once for each seed, with its first run, as no policy changes them;
those that no run of a seed has yet, with its next one.

Further FLAGs go to every training, and into its row. On a GPU one bucket saves programs to compile:
--config.data.prompt_buckets="(96,)" for prompts, "(192,)" for questions.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from run_files import json_lines

from gfn_jax.evaluation import frontier
from gfn_jax.reporting.frontier_plot import save_frontier
from gfn_jax.runtime.json_files import finite, plain

TEMPERATURES, SEEDS = (0.8, 0.85, 0.9), (0, 1)
METHODS = ["GFlowNet", "sampling"]
METHODS += [f"temperature {each:g}" for each in (0.5, 0.7, 0.8, 0.85, 1.2)]
METHODS += [f"nucleus {each:g}" for each in (0.5, 0.8, 0.95)]
METHODS += ["greedy", "beam 8", "diverse beam 8"]
DIVERSITIES, LIKELIHOODS = ("diversity", "embedding_distance"), ("log_likelihood", "log_likelihood_best")
"""What policies and baselines are compared by: each likelihood at each equal diversity."""
ENCODER, SECOND_JUDGE = "data/nli/encoder", "data/nli/judge_second"
QUESTIONS = {  # kind of run -> what it has of its own
    "contradiction": {},
    "with the original fact": {"reward.original_weight": 4.0},
    "without contradiction": {"reward.contradiction_weight": 0.0},
}


class Run(NamedTuple):
    """`about` is what the run's row begins with; `flags` are the caller's own."""

    name: str
    about: dict[str, Any]
    training: list[str]
    comparing: list[str]
    flags: tuple[str, ...] = ()


def continuations(prompts: str) -> Iterator[Run]:
    for seed in SEEDS:
        for temperature in TEMPERATURES:
            settings = {"data.path": prompts, "data.val_prompts": 128, "seed": seed}
            training = _training("next_sentence_smollm2", settings | {"reward.temperature_end": temperature})
            comparing = ["--candidates=0", f"--embedding_model={ENCODER}"]
            about = {"task": "next_sentence", "temperature_end": temperature, "seed": seed}
            yield Run(f"continuations-t{temperature:g}-seed{seed}", about, training, comparing)


def questions(facts: str, held_out: str) -> Iterator[Run]:
    data = {"data.path": facts, "data.val_path": held_out}
    for kind, settings in QUESTIONS.items():
        for seed in SEEDS:
            training = _training("contradiction_smollm2", {**data, "seed": seed, **settings})
            comparing = ["--candidates=64", f"--second_judge={SECOND_JUDGE}"]
            about = {"task": "contradiction", "reward": kind, "seed": seed}
            yield Run(f"questions-{kind.replace(' ', '_')}-seed{seed}", about, training, comparing)


def methods(run: Run, rows: list[dict[str, Any]]) -> list[str]:
    """What a run is compared with, beside those that have been."""
    if run.about["task"] != "next_sentence":
        return ["GFlowNet", "sampling", "reference"]
    compared = {method["name"] for method in _baselines(rows).get(run.about["seed"], [])}
    return [name for name in METHODS if name not in compared]


def _training(config: str, settings: dict[str, Any]) -> list[str]:
    return [f"--config=configs/{config}.py", *(f"--config.{key}={value}" for key, value in settings.items())]


def do(run: Run, place: Path, methods: list[str]) -> None:
    training, comparing = [*run.training, *run.flags], [*run.comparing, f"--methods={','.join(methods)}"]
    compared = _compared(place)
    if compared == place:
        _command("train", place, training)
        _command("evaluate", place, comparing)
    else:
        _command("evaluate", compared, [*training, f"--adapter={place / 'adapter'}", *comparing])


def _command(name: str, workdir: Path, flags: list[str]) -> None:
    subprocess.run([sys.executable, "-m", f"gfn_jax.{name}", f"--workdir={workdir}", *flags], check=True)


def _compared(place: Path) -> Path:
    """Where a run's comparison lies: its own directory, unless its policy came as an adapter."""
    is_from_elsewhere = (place / "adapter").exists() and not (place / "checkpoints").exists()
    return place / "compared" if is_from_elsewhere else place


def row(run: Run, place: Path) -> dict[str, Any]:
    evaluation = json.loads((_compared(place) / "evaluation.json").read_text())
    trained = json.loads((place / "machine.json").read_text())
    metrics = json_lines(place / "metrics.jsonl")
    steps = [each for each in metrics if "train/seconds" in each]
    phases = sorted({name for each in steps for name in each if name.startswith("time/")})
    validations = [each for each in metrics if "val/elbo" in each]
    before, after = (
        {name.removeprefix("val/"): value for name, value in each.items() if name.startswith("val/")}
        for each in (validations[0], validations[-1])
    )
    return {
        **run.about,
        "commit": trained["commit"],
        "trained_on": trained,
        "machine": evaluation["machine"],
        "checkpoint": evaluation["step"] if _compared(place) == place else None,
        "flags": run.flags,
        "steps": steps[-1]["step"],
        "seconds_per_step": float(np.median([each["train/seconds"] for each in steps])),
        **{name: float(np.median([each.get(name, 0.0) for each in steps])) for name in phases},
        "before": before,
        "after": after,
        "prompts": evaluation["prompts"],
        "samples_per_prompt": evaluation["samples_per_prompt"],
        "methods": [
            {name: method[name] for name in ("name", "family", "setting", "seconds")}
            | {"figures": _shortened(method["figures"])}
            for method in evaluation["methods"]
        ],
    }


def _shortened(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures with their prompts' own values where these are wanted again, rounded."""

    def shortened(name: str, figure: dict[str, Any]) -> dict[str, Any]:
        means = {part: value for part, value in figure.items() if part != "per_prompt"}
        if name not in (*DIVERSITIES, *LIKELIHOODS):
            return means
        return means | {"per_prompt": [value and round(value, 4) for value in figure["per_prompt"]]}

    return {name: shortened(name, figure) for name, figure in figures.items()}


def at_equal_diversity(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The policies' log-likelihood beside that of baselines that are as diverse, of each run and of all seeds."""
    runs = _with_baselines(rows)
    return [
        {"diversity_by": diversity, "log_likelihood_by": likelihood, **plain(each)}
        for diversity in DIVERSITIES
        for likelihood in LIKELIHOODS
        for each in frontier.rows(
            [run._replace(methods=frontier.by_figures(diversity, likelihood, run.methods)) for run in runs]
        )
    ]


def _with_baselines(rows: list[dict[str, Any]]) -> list[frontier.Run]:
    """The continuations, each with its own policy and the baselines of its seed that all compared seeds have."""
    baselines = _baselines(rows)
    of_all = set.intersection(*({method["name"] for method in of_seed} for of_seed in baselines.values()), set(METHODS))
    return [
        frontier.Run(
            row["temperature_end"],
            row["seed"],
            [row["methods"][0], *(method for method in baselines[row["seed"]] if method["name"] in of_all)],
        )
        for row in rows
        if row["task"] == "next_sentence" and row["seed"] in baselines
    ]


def _baselines(rows: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """By seed the ways to decode the frozen model that its continuations were compared with."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row["task"] == "next_sentence" and row["methods"][1:]:
            found.setdefault(row["seed"], []).extend(row["methods"][1:])
    return found


def read_rows(place: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(place.glob("*-seed*.json"))]


def summarise(rows: list[dict[str, Any]], place: Path) -> None:
    """Leaves what all runs say together in a directory."""
    write(place / "summary.json", {"at_equal_diversity": at_equal_diversity(rows)})
    if runs := _with_baselines(rows):
        save_frontier(frontier.pooled(runs), place / "frontier.png")


def write(file: Path, result: dict[str, Any]) -> None:
    """As JSON, what holds nothing but plain values on one line."""
    text = json.dumps(finite(result), indent=1)
    file.write_text(re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts")
    parser.add_argument("--facts")
    parser.add_argument("--held_out", default="", help="facts to validate with; by default some of the others")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--only", default="", help="runs whose name holds this")
    parser.add_argument("--out", type=Path, required=True)
    args, flags = parser.parse_known_args()

    args.out.mkdir(parents=True, exist_ok=True)
    runs = [
        run._replace(flags=tuple(flags))
        for run in (
            *(continuations(args.prompts) if args.prompts else ()),
            *(questions(args.facts, args.held_out) if args.facts else ()),
        )
    ]
    if not any(args.only in run.name for run in runs):
        sys.exit(f"--only: no run's name holds {args.only!r}; they are {', '.join(run.name for run in runs)}")
    end = time.monotonic() + 60 * args.minutes
    for run in runs:
        file = args.out / f"{run.name}.json"
        if args.only in run.name and not file.exists() and time.monotonic() < end:
            if not (_compared(args.workdir / run.name) / "evaluation.json").exists():
                do(run, args.workdir / run.name, methods(run, read_rows(args.out)))
            write(file, row(run, args.workdir / run.name))
    rows = read_rows(args.out)
    summarise(rows, args.out)
    print(f"{len(rows)} runs are in {args.out}")


if __name__ == "__main__":
    main()
