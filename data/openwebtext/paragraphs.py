"""Paragraphs of running prose out of a document, one line each: hard wraps undone; lists, tables, verse refused."""

import itertools
import re

_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_COLUMNS = re.compile(r"\S(?:[^\S\n]*\t[^\S\n]*| {4,})\S")
_MARKER = re.compile(r"\s*(?:[-*+•·‣◦▪>|#=~–—]+|\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{2,4})\)|(?:\d{1,3}|[A-Z])\.)(?:\s|$)")
_SENTENCE_END = re.compile(r"[.!?][\"'”’»)\]]*$")
_NARROWEST, _WIDEST = 40, 120  # hard wraps, in characters
_RAGGED = 12  # so many characters more than it must may a hard-wrapped line leave free


def blocks(document: str) -> list[str]:
    """The document's parts between blank lines, as they stand."""
    return [block for block in _BLANK_LINES.split(document) if block.strip()]


def prose(block: str) -> list[str]:
    """The block's paragraphs, white space collapsed; none where it is a list, a table, code or verse.

    A hard-wrapped block is one paragraph. Otherwise each line is one, if the lines are too long to be
    parts of sentences, or all end as sentences do.
    """
    lines = [line.rstrip() for line in block.split("\n") if line.strip()]
    is_whole = len(lines) == 1 or _is_hard_wrapped(lines)
    if any(map(_COLUMNS.search, lines)) or any(map(_MARKER.match, lines[:1] if is_whole else lines)):
        return []
    if is_whole:
        return [" ".join(block.split())]
    if max(map(len, lines)) <= _WIDEST and not all(map(_SENTENCE_END.search, lines)):
        return []
    return [" ".join(line.split()) for line in lines]


def _is_hard_wrapped(lines: list[str]) -> bool:
    """Whether no line but the last leaves room for the next one's first word."""
    width = max(map(len, lines))
    return _NARROWEST <= width <= _WIDEST and all(
        len(line) + 1 + len(following.split()[0]) + _RAGGED > width for line, following in itertools.pairwise(lines)
    )
