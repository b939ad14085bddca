"""Files of a run: written whole or not at all, or a JSON object a line."""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from gfn_jax.runtime.errors import TrainingError, UserError


def replace_file(file: Path, content: str) -> None:
    """Writes a file whole or not at all; half a character, which JSON can spell, becomes a question mark.

    Raises `UserError` where it cannot be written.
    """
    new = file.with_name(f"{file.name}.new")
    try:
        new.unlink(missing_ok=True)  # it may be a link to somewhere else
        new.write_text(content, encoding="utf-8", errors="replace")
        os.replace(new, file)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file; raises `UserError` where it is none of JSON's."""
    try:
        content = _parsed(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} does not hold a JSON object")
    return content


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of one JSON object a line, but for damaged ones; none where there is no file."""
    if not file.exists():
        return
    for line in file.read_bytes().split(b"\n")[:-1]:
        if math.isfinite(_step(line)):
            yield _parsed(line)


class JsonLines:
    """A file of one JSON object a line, each with its "step"; there is none before the first one is written."""

    def __init__(self, file: Path, after_step: int):
        """Goes on after a step (-1: from the beginning).

        Lines of later steps, from before a restart, are cut, and so is what was not written to its
        end, or is damaged.
        """
        if file.exists():
            whole = file.read_bytes().split(b"\n")[:-1]
            kept = [line.decode() for line in whole if _step(line) <= after_step]
            replace_file(file, "".join(f"{line}\n" for line in kept))
        self._path = file
        self._file: TextIO | None = None

    def write(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows; a figure that is not finite is written as null. Raises `TrainingError` where the disk is full."""
        lines = [json.dumps({"step": step, **finite(row)}, ensure_ascii=False) + "\n" for row in rows]
        if not lines:
            return
        try:
            if self._file is None:
                self._file = self._path.open("a", encoding="utf-8")
            self._file.writelines(lines)
            self._file.flush()
        except OSError as error:
            raise TrainingError(f"{self._path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # it was raised by `write`, and is again for what is still to be written
                self._file.close()


def finite(value: Any) -> Any:
    """The value, with None for every number in it that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(value: Any) -> Any:
    """Named tuples as JSON objects, all the way down."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    return {name: plain(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def _parsed(text: str | bytes) -> Any:
    """What a JSON text says, with None for the numbers that Python writes and JSON does not have."""
    return json.loads(text, parse_constant=lambda name: None)


def _step(line: bytes) -> float:
    """The step that a line is about; later than any where it is none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return math.inf
