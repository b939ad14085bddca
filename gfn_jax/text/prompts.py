"""Prompt files, their split, their order, and token batches of few different shapes."""

import functools
import hashlib
import itertools
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gfn_jax.runtime.errors import UserError
from gfn_jax.types import Prompts


def read_lines(path: str, key: str) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, each after its number (from 1), without the white space around them.

    A byte-order mark at its beginning is no text. Raises `UserError`, naming the configuration's `key`, where there
    is nothing to read.
    """
    if not path:
        raise UserError(f"{key} is empty: name a file")
    is_empty = True
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if text := line.strip():
                    is_empty = False
                    yield number, text
    except FileNotFoundError as error:
        raise UserError(f"{key}: there is no file {path}") from error
    except (OSError, UnicodeError) as error:
        raise UserError(f"{key}: {path} cannot be read as UTF-8 text: {error}") from error
    if is_empty:
        raise UserError(f"{key}: {path} holds no line of text")


def read_objects(path: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects of a file of JSON lines, each with words for where it stands.

    Raises `UserError`, naming `key` and line, where there is none.
    """
    for number, line in read_lines(path, key):
        where = f"{key}: {path} line {number}"
        yield where, parse_object(where, line)


def parse_object(where: str, line: str) -> dict[str, Any]:
    """A line that is a JSON object; raises `UserError`, with the words for where it stands, where it is none."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{where} is not a JSON object")
    return fields


def normalised(text: str) -> str:
    """The text as it counts where different texts are counted: no difference of case, white space or Unicode form."""
    folded = unicodedata.normalize("NFD", text).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def alike(texts: Iterable[str]) -> list[list[str]]:
    """The different texts in the order of their hashes; those that are equal when normalised stand with the first."""
    groups: dict[str, list[str]] = {}
    for text in sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).digest()):
        groups.setdefault(normalised(text), []).append(text)
    return list(groups.values())


def split(texts: Sequence[str], validation: int) -> tuple[list[str], list[str]]:
    """Training and validation texts, without repetitions.

    Whoever has the smallest hashes validates, until there are `validation` texts or more: neither the file's order
    nor the seed matters. No text is ever on both sides, nor are two that are equal when normalised.
    """
    groups = alike(texts)
    held_out: list[str] = []
    for taken, group in enumerate(groups[:-1], start=1):
        held_out += group
        if len(held_out) >= validation:
            return list(itertools.chain.from_iterable(groups[taken:])), held_out
    raise UserError(
        f"data.val_prompts is {validation}, but data.path holds {len(groups)} prompts that differ in more than case, "
        "white space and Unicode form; at least one must remain for training"
    )


def indices_of_step(step: int, batch: int, total: int, seed: int) -> np.ndarray:
    """Which `batch` of `total` examples step number `step` (from 0) takes.

    Epoch after epoch in a new order, as one endless stream: a function of its arguments alone, so a
    resumed run needs no cursor but its step.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    return np.array([_order(seed, position // total, total)[position % total] for position in positions.tolist()])


@functools.lru_cache(maxsize=2)  # a step may reach into the next epoch
def _order(seed: int, epoch: int, total: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(total)


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The smallest of the buckets that holds so many tokens."""
    return min(bucket for bucket in buckets if bucket >= length)


def begins_with(row: Sequence[int], beginning: Sequence[int]) -> bool:
    """Whether a row begins with these tokens, and has more."""
    return len(row) > len(beginning) and tuple(row[: len(beginning)]) == tuple(beginning)


def pad_to_bucket(
    rows: Sequence[Sequence[int]], buckets: Sequence[int], longest: int, beginning: tuple[int, ...] = ()
) -> Prompts:
    """Token rows, still on the host, padded on the right to the smallest bucket that holds `longest` tokens."""
    tokens: Any = np.zeros((len(rows), bucket_of(longest, buckets)), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    lengths: Any = np.asarray([len(row) for row in rows], np.int32)
    return Prompts(tokens, lengths, beginning)
