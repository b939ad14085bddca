"""What `real_language.py` measured, as the tables of docs/real_language.md, in Markdown.

    python benchmarks/real_language_tables.py docs/results/real_language
    python benchmarks/real_language_tables.py --samples NAME=STEP=FILE [NAME=STEP=FILE ...]

The second form prints docs/real_language_samples.md: of each validation fact the questions and answers of the frozen
model and of runs after a step, from their samples.jsonl, under the names given.

Of an end temperature with several seeds: what changed, seed by seed; at equal diversity, all seeds together. There †
marks what is beyond the most diverse of a family's baselines, where their outermost line goes on.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from real_language import DIVERSITIES, LIKELIHOODS, read_rows
from run_files import json_lines

from gfn_jax.evaluation.frontier import FAMILIES

BY = {"diversity": "words", "embedding_distance": "embeddings"}
OF = {"log_likelihood": "Mean over a prompt's continuations", "log_likelihood_best": "The likeliest of them"}
ASKING = {"sampling": "the frozen model", "GFlowNet": "the policy", "reference": "the target"}
RATES = {
    "contradiction_rate": "contradiction",
    "second_judge_contradiction_rate": "by the second judge",
    "discriminates": "discriminates",
    "about_subject": "names the subject",
}
JUDGED = ("p_contradiction", "p_contradicts_original")
CHANGED = {"mixture_log_ratio_var": 1, "elbo": 1, "log_likelihood": 1, "diversity": 3, "length": 1}


def table(head: Sequence[str], lines: Iterator[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def interval(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.1f} [{estimate['low']:.1f}, {estimate['high']:.1f}]"


def changed(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Validation before and after, of each run, and how long a step took where."""
    for row in rows:
        where = row.get("trained_on", row["machine"])
        pairs = [
            f"{row['after'][name]:.{digits}f}, from {row['before'][name]:.{digits}f}"
            for name, digits in CHANGED.items()
        ]
        about = [f"{row['temperature_end']:g}", str(row["seed"]), *pairs]
        yield [*about, f"{row['seconds_per_step']:.2g}", f"{where['cpu_count']} cores, {where['device_kind']}"]


def at_equal_diversity(
    found: list[dict[str, Any]], rows: list[dict[str, Any]], diversity: str, likelihood: str
) -> Iterator[list[str]]:
    """A row for each end temperature, with as many seeds as there are."""
    most_diverse: dict[tuple[int, str], float] = {}
    for row, family in itertools.product(rows, FAMILIES):
        of_family = [each for each in row["methods"] if each["family"] == family or each["name"] == "sampling"]
        means = [each["figures"][diversity]["mean"] for each in of_family]
        most_diverse[row["seed"], family] = max([most_diverse.get((row["seed"], family), 0.0), *means])
    chosen = [each for each in found if (each["diversity_by"], each["log_likelihood_by"]) == (diversity, likelihood)]
    most = {each["temperature"]: each for each in sorted(chosen, key=lambda each: len(each["seeds"]))}
    for temperature, each in sorted(most.items()):
        cells = [f"{temperature:g}", ", ".join(map(str, each["seeds"]))]
        cells += [f"{BY[diversity]}, {each['diversity']['mean']:.2f}", interval(each["log_likelihood"])]
        for family, beside in each["beside"].items():
            is_beyond = each["diversity"]["mean"] > min(most_diverse[seed, family] for seed in each["seeds"])
            mark = "†" if is_beyond else ""
            cells += [interval(beside[part]) + mark if beside else "outside" for part in ("baseline", "difference")]
        yield cells


def side_by_side(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Every way to decode, of one seed."""
    for row in rows:
        for method in row["methods"]:
            figures = method["figures"]
            name = f"{method['name']}, {row['temperature_end']:g}" if method["family"] == "GFlowNet" else method["name"]
            means = {part: figures[part]["mean"] for part in ("log_likelihood_best", *DIVERSITIES, "length")}
            yield [
                name,
                interval(figures["log_likelihood"]),
                f"{means['log_likelihood_best']:.1f}",
                f"{means['diversity']:.2f}",
                f"{means['embedding_distance']:.2f}",
                f"{means['length']:.1f}",
                f"{method['seconds']:.0f}",
            ]


def questions(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """What was asked about held-out facts by the frozen model, by the policy, and by the target that it learns."""
    for row in rows:
        methods = {method["name"]: method["figures"] for method in row["methods"]}
        for method, name in ASKING.items():
            if method not in methods:  # the target takes long, and may have been left out
                continue
            figures, about = methods[method], f"{row['reward']}, seed {row['seed']}, step {row['checkpoint']}"
            log_z = figures.get("log_z", figures.get("elbo"))
            rates = [f"{figures[rate]['mean']:.3f}" for rate in RATES]
            yield [about, name, *rates, f"{figures['distinct_contradicting']['mean']:.1f}", interval(log_z)]


def asked(runs: Sequence[str]) -> Iterator[str]:
    """Each fact with its questions: of the frozen model, with which all runs begin, and of each run."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for number, run in enumerate(runs):
        name, step, file = run.split("=", 2)
        shown = {int(step): name} | ({} if number else {0: "the frozen model"})
        for sample in json_lines(Path(file)):
            if who := shown.get(sample["step"]):
                found.setdefault(sample["edit_fact"], {}).setdefault(who, []).append(sample)
    head = ["asks", "question", "answer", "contradicts the edit", "the original"]
    for number, (fact, by_whom) in enumerate(found.items(), start=1):
        lines = ([who, *_cells(sample)] for who, samples in by_whom.items() for sample in samples)
        original = next(iter(by_whom.values()))[0]["original_fact"]
        yield f"**{number}. {fact}** (was: {original})\n\n{table(head, lines)}\n"


def _cells(sample: dict[str, Any]) -> list[str]:
    texts = [" ".join(sample[key].split()).replace("|", "\\|") for key in ("continuation", "answer")]
    return [*texts, *(f"{sample[key]:.2f}" for key in JUDGED)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--samples", nargs="+", metavar="NAME=STEP=FILE")
    args = parser.parse_args()
    if args.samples:
        print("\n".join(asked(args.samples)))
        return
    if args.results is None:
        parser.error("name the directory of the results, or --samples")
    place, all_rows = args.results, read_rows(args.results)
    rows = [row for row in all_rows if row["task"] == "next_sentence"]
    found = json.loads((place / "summary.json").read_text())["at_equal_diversity"]
    head = ["end temperature", "seed", "log-ratio variance", "elbo", "log-likelihood", "diversity", "tokens"]
    print(table([*head, "s a step", "on"], changed(rows)))
    for likelihood in LIKELIHOODS:
        head = ["end temperature", "seeds", "diversity by", "policy", "temperature", "gain", "nucleus", "gain"]
        both = [line for diversity in DIVERSITIES for line in at_equal_diversity(found, rows, diversity, likelihood)]
        print(f"\n{OF[likelihood]}:\n\n{table(head, iter(sorted(both, key=lambda line: line[0])))}")
    for seed in sorted({row["seed"] for row in rows}):
        head = [f"seed {seed}", "log-likelihood", "best of 8", "diversity", "embedding distance", "tokens", "s"]
        print(f"\n{table(head, side_by_side([row for row in rows if row['seed'] == seed]))}")
    head = ["reward", "who asks", *RATES.values(), "different ones", "elbo; log Z"]
    print(f"\n{table(head, questions([row for row in all_rows if row['task'] == 'contradiction']))}")


if __name__ == "__main__":
    main()
