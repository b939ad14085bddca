"""Turns fact edits as published, ZsRE's or CounterFact's, into the data of the contradiction task.

python data/zsre/convert.py --input FILE [--input FILE2 ...] [--out data/zsre/train.jsonl]

A FILE is a JSON array or JSON lines. Its rows may be of MEND, ROME, MEMIT or EasyEdit, or have the
facts ready: the keys say which, and "src", "requested_rewrite", "target_new" or "edit_fact" is one. A
fact is the question or the statement's beginning with its answer after it, in one text. Ends with a
table of what was found and dropped.
"""

from pathlib import Path

from absl import flags

from gfn_jax.config import command_line
from gfn_jax.runtime.errors import UserError

_INPUT = flags.DEFINE_multi_string("input", [], "a file of fact edits; may be given several times")
_OUT = flags.DEFINE_string("out", "data/zsre/train.jsonl", "JSON lines of subject, edit_fact and original_fact")
_DUPLICATES = flags.DEFINE_boolean(
    "drop_duplicates", True, "drop what an earlier row says of the same subject, but for case and white space"
)
_UNCHANGED = flags.DEFINE_boolean(
    "drop_unchanged", True, "drop edits that say the same as a true fact: nothing contradicts them"
)
_NOT_A_VALUE = flags.DEFINE_boolean("drop_nan", True, "drop edits whose answer is a missing value, written out as nan")
_WITHOUT_SUBJECT = flags.DEFINE_boolean(
    "drop_without_subject",
    False,
    "drop facts that do not contain their subject; off, as many name it in other words, and the task only "
    "needs the subject to keep training and validation apart",
)


def main() -> None:
    if not _INPUT.value:
        raise UserError("--input is missing: name a file of fact edits")
    import itertools

    import fact_conversion
    from rich.console import Console

    drops = {
        fact_conversion.DUPLICATE: _DUPLICATES.value,
        fact_conversion.UNCHANGED: _UNCHANGED.value,
        fact_conversion.NOT_A_VALUE: _NOT_A_VALUE.value,
        fact_conversion.WITHOUT_SUBJECT: _WITHOUT_SUBJECT.value,
    }
    edits = itertools.chain.from_iterable(map(fact_conversion.read_edits, _INPUT.value))
    kept, found, gone = fact_conversion.select(edits, [kind for kind, is_dropped in drops.items() if is_dropped])
    console = Console()
    console.print(fact_conversion.counts_table(len(kept), found, gone))
    if not kept:
        raise UserError("no fact edit is left")
    fact_conversion.write_lines(kept, Path(_OUT.value))
    console.print(f"{len(kept)} fact edits are in {_OUT.value}", soft_wrap=True)


if __name__ == "__main__":
    command_line.run(main)
