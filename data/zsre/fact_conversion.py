"""Fact edits as published to those that the contradiction task trains on, and how many were what."""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from fact_formats import Edit, read_edit
from rich.table import Table

from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks.contradiction import FactEdit
from gfn_jax.text.prompts import normalised, read_lines, read_objects

UNCHANGED, NOT_A_VALUE = "says the same as an original", "its answer is nan"
WITHOUT_SUBJECT, DUPLICATE = "subject not in its fact", "duplicate"


def read_edits(path: str) -> Iterator[Edit]:
    """The edits of a JSON array or of JSON lines; raises `UserError` with the place of what is none."""
    _, first = next(read_lines(path, "--input"))
    is_array = first.startswith("[")
    for where, row in _entries(path) if is_array else read_objects(path, "--input"):
        yield read_edit(row, where)


def select(edits: Iterable[Edit], dropped: Collection[str]) -> tuple[list[FactEdit], Counter[str], Counter[str]]:
    """The edits that are kept; how many were found of each kind; how many were dropped because of it.

    An edit may be found of several kinds, and is dropped because of the first one. It is a duplicate
    where one that is kept says the same of the same subject.
    """
    kept: list[FactEdit] = []
    keys: set[tuple[str, str]] = set()
    found: Counter[str] = Counter()
    gone: Counter[str] = Counter()
    for edit in edits:
        subject, fact = key = normalised(edit.subject), normalised(edit.edit_fact)
        is_of = {
            UNCHANGED: fact in map(normalised, edit.original_facts),
            NOT_A_VALUE: fact.endswith(" nan."),
            WITHOUT_SUBJECT: subject not in fact,
            DUPLICATE: key in keys,
        }
        kinds = [kind for kind, is_it in is_of.items() if is_it]
        found.update(kinds)
        if reason := next((kind for kind in kinds if kind in dropped), None):
            gone[reason] += 1
        else:
            keys.add(key)
            kept.append(FactEdit(subject=edit.subject, edit_fact=edit.edit_fact, original_fact=edit.original_facts[0]))
    return kept, found, gone


def counts_table(kept: int, found: Counter[str], gone: Counter[str]) -> Table:
    """What was read, what was found among it and dropped of it, and what is kept."""
    table = Table(title="fact edits")
    table.add_column("")
    for heading in ("found", "dropped"):
        table.add_column(heading, justify="right")
    table.add_row("read", str(kept + gone.total()), "")
    for kind in (UNCHANGED, NOT_A_VALUE, WITHOUT_SUBJECT, DUPLICATE):
        table.add_row(kind, str(found[kind]), str(gone[kind]))
    table.add_section()
    table.add_row("kept", str(kept), "")
    return table


def write_lines(edits: Iterable[FactEdit], out: Path) -> None:
    """JSON lines, the whole file or none of it."""
    new = out.with_name(f"{out.name}.new")
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(edit.model_dump(), ensure_ascii=False) for edit in edits)
    new.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    os.replace(new, out)


def _entries(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON array, each with words for where it stands."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"--input: {path} is not JSON: {error}") from error
    for number, entry in enumerate(entries, start=1):
        where = f"--input: {path} entry {number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where} is not a JSON object")
        yield where, entry
