"""Makes pairs of facts for a judge, who from pictures' captions alone learns little about names and dates.

python data/zsre/judge_pairs.py [--facts data/zsre/train.jsonl] [--out data/zsre/judge_pairs.tsv]
python data/nli/train_judge.py --encoder data/nli/encoder --pairs SNLI.tsv --pairs data/zsre/judge_pairs.tsv \
    --out data/nli/judge

Of two facts about one subject with the same true answer, as "X was born in Rome" and "The birthplace of X is Rome",
each follows from the other, and an edit of either contradicts the other's true form. Facts about other subjects, and
about the same one with another true answer, neither follow nor contradict. A fact's answer is what its edit replaces.

Only facts that training sees are used: those about subjects that a run holds out, of which it validates, are left out.
--subjects=held_out makes pairs of these instead, to examine a judge on (data/nli/examine_judge.py). The pairs are one
line each, premise, hypothesis and label, with tabs between them.
"""

from pathlib import Path

from absl import flags

from gfn_jax.config import command_line
from gfn_jax.runtime.errors import UserError

_FACTS = flags.DEFINE_string("facts", "data/zsre/train.jsonl", "fact edits, as convert.py writes them")
_VAL_PROMPTS = flags.DEFINE_integer("val_prompts", 64, "data.val_prompts of the runs to come", lower_bound=1)
_SUBJECTS = flags.DEFINE_enum("subjects", "training", ["training", "held_out"], "whose facts")
_UNRELATED = flags.DEFINE_integer("unrelated", 2, "facts about other subjects that each fact is paired with", 0)
_SEED = flags.DEFINE_integer("seed", 0, "of the choice of these", lower_bound=0)
_OUT = flags.DEFINE_string("out", "data/zsre/judge_pairs.tsv", "the file of pairs")


def main() -> None:
    import fact_pairs
    from rich.console import Console

    from gfn_jax.tasks.contradiction import read_edits, split_by_subject

    parts = split_by_subject(read_edits(_FACTS.value, "--facts"), _VAL_PROMPTS.value)
    facts = dict(zip(("training", "held_out"), parts, strict=True))[_SUBJECTS.value]
    pairs = fact_pairs.make(facts, _UNRELATED.value, _SEED.value)
    lines = "".join("\t".join(pair) + "\n" for pair in pairs)
    try:
        Path(_OUT.value).write_text(lines, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out: {_OUT.value} cannot be written: {error.strerror}") from error
    counts = ", ".join(f"{count} {label}" for label, count in fact_pairs.counts(pairs).items())
    Console().print(f"{len(pairs)} pairs of {len(facts)} facts ({counts}) are in {_OUT.value}", soft_wrap=True)


if __name__ == "__main__":
    command_line.run(main)
