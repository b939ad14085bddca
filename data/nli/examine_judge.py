"""Says which of labelled pairs a judge takes for contradictions, as the reward asks it.

python data/nli/examine_judge.py --judge data/nli/judge --pairs FILE [--pairs FILE2 ...]

A FILE is one of train_judge.py. The judge is any NLI model that reward.nli.name_or_path takes; a pair counts as a
contradiction where its probability is above one half.
"""

from absl import flags

from gfn_jax.config import command_line
from gfn_jax.runtime.errors import UserError

_JUDGE = flags.DEFINE_string("judge", None, "a Hugging Face directory or hub name of an NLI model")
_PAIRS = flags.DEFINE_multi_string("pairs", [], "a file of labelled pairs; may be given several times")
_LABEL = flags.DEFINE_integer("contradiction_label", -1, "as reward.nli.contradiction_label", lower_bound=-1)


def main() -> None:
    for name, value in (("--judge", _JUDGE.value), ("--pairs", _PAIRS.value)):
        if not value:
            raise UserError(f"{name} is missing")
    import math

    from pairs import LABELS, read_pairs
    from rich.console import Console
    from rich.table import Table

    from gfn_jax.rewards.classifier import Classifier

    pairs, undecided = read_pairs(_PAIRS.value)
    label = "contradict" if _LABEL.value < 0 else _LABEL.value
    judge = Classifier(_JUDGE.value, label, keys=("--judge", "--contradiction_label"))
    of_pairs = judge.log_probabilities_of_pairs([(pair.premise, pair.hypothesis) for pair in pairs])
    said = [math.exp(log_p) for log_p, _ in of_pairs]
    table = Table("label", "pairs", "share judged a contradiction", "mean probability of one")
    for index, label in enumerate(LABELS):
        if own := [p for p, pair in zip(said, pairs, strict=True) if pair.label == index]:
            share = sum(p > 0.5 for p in own) / len(own)
            table.add_row(label, f"{len(own):,}", f"{share:.3f}", f"{sum(own) / len(own):.3f}")
    console = Console()
    console.print(table)
    if undecided:
        console.print(f"{undecided:,} more pairs have no label")


if __name__ == "__main__":
    command_line.run(main)
