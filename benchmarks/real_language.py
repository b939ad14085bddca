"""Both tasks with a real language model on real English: trains every run, compares it with decoding, and goes on.

    python data/fetch.py smollm2
    python data/fetch.py minilm
    python benchmarks/real_language.py --workdir runs/real --out docs/results/real_language.json \
        --prompts FILE [--facts FILE] [--minutes 60] [--only PART]

FILEs are prompts, one on each line, and fact edits as `data/zsre/convert.py` writes them. The questions ask
`data/nli/judge` and, as the second judge, `data/nli/judge_second`, which `data/nli/train_judge.py` makes of two halves
(--half first, --half second --seed 1). A run that has its comparison is not made again, whatever the code has become
since: each says of which commit it is. No run begins after the minutes are over.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from run_files import json_lines

from gfn_jax.runtime.json_files import plain

TEMPERATURES, SEEDS = (0.8, 0.85, 0.9), (0, 1)
METHODS = ["GFlowNet", "sampling"]
METHODS += [f"temperature {each:g}" for each in (0.5, 0.7, 0.8, 0.85)]
METHODS += [f"nucleus {each:g}" for each in (0.5, 0.8, 0.95)]
METHODS += ["greedy", "beam 8", "diverse beam 8"]
ENCODER, SECOND_JUDGE = "data/nli/encoder", "data/nli/judge_second"
QUESTIONS = {  # kind of reward -> its weights
    "contradiction": {},
    "with the original fact": {"original_weight": 4.0},
    "without contradiction": {"contradiction_weight": 0.0},
}


class Run(NamedTuple):
    """`about` is what the run's row begins with."""

    name: str
    about: dict[str, Any]
    training: list[str]
    comparing: list[str]


def continuations(prompts: str) -> Iterator[Run]:
    for seed in SEEDS:
        for temperature in TEMPERATURES:
            settings = {"data.path": prompts, "data.val_prompts": 128, "seed": seed}
            training = _training("next_sentence_smollm2", settings | {"reward.temperature_end": temperature})
            comparing = ["--candidates=0", f"--methods={','.join(METHODS)}", f"--embedding_model={ENCODER}"]
            about = {"task": "next_sentence", "temperature_end": temperature, "seed": seed}
            yield Run(f"continuations-t{temperature:g}-seed{seed}", about, training, comparing)


def questions(facts: str) -> Iterator[Run]:
    for kind, weights in QUESTIONS.items():
        for seed in SEEDS:
            settings = {f"reward.{name}": value for name, value in weights.items()}
            training = _training("contradiction_smollm2", {"data.path": facts, "seed": seed, **settings})
            comparing = ["--candidates=64", "--methods=GFlowNet,sampling,reference", f"--second_judge={SECOND_JUDGE}"]
            about = {"task": "contradiction", "reward": kind, "seed": seed}
            yield Run(f"questions-{kind.replace(' ', '_')}-seed{seed}", about, training, comparing)


def _training(config: str, settings: dict[str, Any]) -> list[str]:
    return [f"--config=configs/{config}.py", *(f"--config.{key}={value}" for key, value in settings.items())]


def do(run: Run, place: Path) -> None:
    for command, flags in (("train", run.training), ("evaluate", run.comparing)):
        subprocess.run([sys.executable, "-m", f"gfn_jax.{command}", f"--workdir={place}", *flags], check=True)


def row(run: Run, place: Path) -> dict[str, Any]:
    evaluation = json.loads((place / "evaluation.json").read_text())
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
        "commit": json.loads((place / "machine.json").read_text())["commit"],
        "machine": evaluation["machine"],
        "checkpoint": evaluation["step"],
        "steps": steps[-1]["step"],
        "seconds_per_step": float(np.median([each["train/seconds"] for each in steps])),
        **{name: float(np.median([each.get(name, 0.0) for each in steps])) for name in phases},
        "before": before,
        "after": after,
        "prompts": evaluation["prompts"],
        "samples_per_prompt": evaluation["samples_per_prompt"],
        "methods": {
            method["name"]: {
                "seconds": method["seconds"],
                **{name: _without_prompts(figure) for name, figure in method["figures"].items()},
            }
            for method in evaluation["methods"]
        },
    }


def _without_prompts(figure: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figure.items() if name != "per_prompt"}


def at_equal_diversity(runs: dict[str, Run], workdir: Path) -> list[dict[str, Any]]:
    """The policies' log-likelihood beside that of baselines that are as diverse, of each run and of all seeds."""
    from gfn_jax.evaluation import frontier  # here, because it imports jax, which no run is to wait for

    found = [
        frontier.Run(
            run.about["temperature_end"],
            run.about["seed"],
            json.loads((workdir / name / "evaluation.json").read_text())["methods"],
        )
        for name, run in runs.items()
        if run.about["task"] == "next_sentence"
    ]
    return [plain(each) for each in frontier.rows(found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts")
    parser.add_argument("--facts")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--only", default="", help="runs whose name holds this")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    runs = [*(continuations(args.prompts) if args.prompts else ()), *(questions(args.facts) if args.facts else ())]
    chosen = {run.name: run for run in runs if args.only in run.name}
    end = time.monotonic() + 60 * args.minutes
    for name, run in chosen.items():
        if time.monotonic() < end and not (args.workdir / name / "evaluation.json").exists():
            do(run, args.workdir / name)
        done = {name: run for name, run in chosen.items() if (args.workdir / name / "evaluation.json").exists()}
        rows = [row(run, args.workdir / name) for name, run in done.items()]
        result = {"wanted": len(chosen), "runs": rows, "at_equal_diversity": at_equal_diversity(done, args.workdir)}
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(rows)} of {len(chosen)} runs are in {args.out}")


if __name__ == "__main__":
    main()
