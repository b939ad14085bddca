"""Has the language model name more subjects for fact edits, where there are too few to train on.

    python data/fetch.py smollm2
    python data/zsre/convert.py --input FILE
    python data/smollm2/write_facts.py [--facts data/zsre/train.jsonl] [--out data/zsre/more_facts.jsonl]
    python -m gfn_jax.train --config configs/contradiction_smollm2.py --workdir runs/questions \
        --config.data.path=data/zsre/more_facts.jsonl --config.data.val_path=data/zsre/held_out_facts.jsonl

A policy learns a few hundred facts by heart before it knows what to ask about one that it has not seen. For each fact
that training sees, the model is shown how others' subjects fit their statements, and names subjects that might stand in
this one's. Both facts are then said of them: "The manufacturer of Colt Python was ..." Names of subjects of `--facts`
are left out. `--out` holds the facts that training sees and, behind them, the new ones; `--held_out` those that a run
of `--facts` would validate by.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.progress import track
from write_documents import UNWANTED, free_writing, writer

from gfn_jax.experiment.experiment import Experiment, build
from gfn_jax.tasks.contradiction import FactEdit, read_edits, split_by_subject
from gfn_jax.text.prompts import normalised

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "zsre"))

from fact_conversion import write_lines  # noqa: E402 (where it lies is said above)

SHOWN, PROMPTS, TOKENS = 6, 16, 12  # examples in a prompt; prompts of a batch; of a name
FORM = "Statement: {}\nThing or person:{}"
NAME = re.compile(r" (?P<name>[A-Z0-9][^\n:;?!_\"]{2,39})\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HERE / "model"), help="a Hugging Face directory, hub name or GGUF file")
    parser.add_argument("--facts", default="data/zsre/train.jsonl", help="fact edits, as convert.py writes them")
    parser.add_argument("--val_prompts", type=int, default=64, help="data.val_prompts of the runs to come")
    parser.add_argument("--out", type=Path, default=Path("data/zsre/more_facts.jsonl"))
    parser.add_argument("--held_out", type=Path, default=Path("data/zsre/held_out_facts.jsonl"))
    parser.add_argument("--names", type=int, default=12, help="that the model writes for each fact")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    training, held_out = split_by_subject(read_edits(args.facts, "--facts"), args.val_prompts)
    facts = [edit for edit in training if edit.subject in edit.edit_fact and edit.subject in edit.original_fact]
    with build(free_writing(args.model, args.seed, room=256, tokens=TOKENS)) as experiment:
        names = named(experiment, facts, args.names, args.seed)
    more = list(with_new_subjects(facts, names, [edit.subject for edit in (*training, *held_out)]))
    write_lines([*training, *more], args.out)
    write_lines(held_out, args.held_out)
    print(f"{args.out}: {len(training)} facts that were there, and {len(more)} of {args.names * len(facts)} new ones")
    print(f"{args.held_out}: {len(held_out)} facts about other subjects")


def named(experiment: Experiment, facts: Sequence[FactEdit], count: int, seed: int) -> list[list[str]]:
    """What the model writes for each of the facts, of which it sees the statement without the subject."""
    statements = [edit.edit_fact.replace(edit.subject, "___") for edit in facts]
    examples = [FORM.format(statement, f" {edit.subject}") for statement, edit in zip(statements, facts, strict=True)]

    write, rng = writer(experiment, count), np.random.default_rng(seed)
    prompts = [
        "\n\n".join([*rng.choice(examples, SHOWN, replace=False), FORM.format(statement, "")])
        for statement in statements
    ]
    texts: list[str] = []
    for batch, first in enumerate(track(range(0, len(prompts), PROMPTS), "naming")):
        some = prompts[first : first + PROMPTS]
        filled = some + some[-1:] * (PROMPTS - len(some))
        texts += write(filled, batch)[: count * len(some)]
    return [texts[first : first + count] for first in range(0, len(texts), count)]


def with_new_subjects(
    facts: Sequence[FactEdit], names: Sequence[Sequence[str]], known: Sequence[str]
) -> Iterator[FactEdit]:
    """The facts said of what was named, but for subjects that are known; no edit twice."""
    subjects, said = set(map(normalised, known)), set[str]()
    for edit, texts in zip(facts, names, strict=True):
        for match in filter(None, map(NAME.match, texts)):
            name = match["name"].strip(" .,")
            fact, original = (each.replace(edit.subject, name) for each in (edit.edit_fact, edit.original_fact))
            if normalised(name) in subjects or normalised(fact) in said or UNWANTED.search(name):
                continue
            said.add(normalised(fact))
            yield FactEdit(subject=name, edit_fact=fact, original_fact=original)


if __name__ == "__main__":
    main()
