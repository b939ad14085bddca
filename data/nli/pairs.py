"""Pairs of texts with a label, as natural language inference has them: read, put in parts, and varied."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gfn_jax.runtime.errors import UserError
from gfn_jax.text.prompts import normalised, read_lines, read_objects

LABELS = ("entailment", "neutral", "contradiction")
UNDECIDED = ("-", "-1")
"""What SNLI writes where its annotators did not agree."""

_FIELDS = (("premise", "hypothesis", "label"), ("sentence1", "sentence2", "gold_label"))
_HELD_OUT, _FIRST_HALF = 0.1, 0.55


class Pair(NamedTuple):
    """`label` is a place in `LABELS`."""

    premise: str
    hypothesis: str
    label: int


def read_pairs(files: Sequence[str]) -> tuple[list[Pair], int]:
    """The pairs of the files, and how many more there are without a label.

    A file's lines have a premise, a hypothesis and a label, with tabs between them; or, where its name ends in
    .jsonl, are objects with these fields, or with SNLI's own (sentence1, sentence2, gold_label). A label is its
    name, or 0, 1, 2.

    Raises `UserError` where a file cannot be read, and with the line where it is none of these.
    """
    found: list[Pair] = []
    undecided = 0
    for file in files:
        for where, (premise, hypothesis, label) in _of_objects(file) if file.endswith(".jsonl") else _of_lines(file):
            if label in UNDECIDED:
                undecided += 1
            elif not (premise.strip() and hypothesis.strip()):
                raise UserError(f"{where}: the premise or the hypothesis is empty")
            else:
                found.append(Pair(premise.strip(), hypothesis.strip(), _index_of(label, where)))
    return found, undecided


def _of_lines(file: str) -> Iterator[tuple[str, Sequence[str]]]:
    for number, line in read_lines(file, "--pairs"):
        parts = line.split("\t")
        if len(parts) != 3:
            raise UserError(f"--pairs: {file} line {number} has to be premise, hypothesis and label with two tabs")
        yield f"--pairs: {file} line {number}", parts


def _of_objects(file: str) -> Iterator[tuple[str, Sequence[str]]]:
    for where, fields in read_objects(file, "--pairs"):
        names = next((names for names in _FIELDS if fields.keys() >= set(names)), None)
        if names is None:
            raise UserError(f"{where} needs the fields {', '.join(_FIELDS[0])}, or {', '.join(_FIELDS[1])}")
        yield where, [str(fields[name]) for name in names]


def _index_of(label: str, where: str) -> int:
    if label.lower() in LABELS:
        return LABELS.index(label.lower())
    if label in {"0", "1", "2"}:
        return int(label)
    raise UserError(f"{where}: the label {label!r} is none of {', '.join(LABELS)}, 0, 1 and 2")


def part_of(pairs: Sequence[Pair], half: str) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on and those held out, apart by premise, whatever its case and white space.

    Every tenth premise, by hash, is held out; the rest falls in two halves of which `half` chooses "first", "second"
    or "both". So judges of two halves share no premise, and are examined on the same ones.
    """
    low, high = {"first": (_HELD_OUT, _FIRST_HALF), "second": (_FIRST_HALF, 1.0), "both": (_HELD_OUT, 1.0)}[half]
    places = [_place(pair.premise) for pair in pairs]
    chosen = [pair for pair, place in zip(pairs, places, strict=True) if low <= place < high]
    return chosen, [pair for pair, place in zip(pairs, places, strict=True) if place < _HELD_OUT]


def _place(premise: str) -> float:
    """A number in [0, 1) that hangs on the premise alone."""
    return int.from_bytes(hashlib.sha256(normalised(premise).encode()).digest()[:6]) / 2**48


def as_written(text: str) -> str:
    """With a capital at the start, and a full stop where no mark ends it: as facts and answers are written."""
    ended = text if text.endswith((".", "!", "?")) else f"{text}."
    return ended[:1].upper() + ended[1:]
