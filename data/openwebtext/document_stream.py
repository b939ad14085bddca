"""The documents of a Hugging Face dataset or of a local file, as one stream that goes on from where it was."""

import hashlib
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
from datasets import IterableDataset, load_dataset

from gfn_jax.runtime.errors import UserError

_BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}  # of `datasets`; anything else is plain text
_COMPRESSED = (".gz", ".zst", ".xz", ".bz2")


def open_dataset(name: str) -> IterableDataset:
    """The training split of a dataset of the Hugging Face hub; raises `UserError` where it cannot be had."""
    huggingface_hub.logging.set_verbosity_error()  # it would tell of every attempt
    return _open("--dataset", name, path=name)


def open_file(path: Path) -> IterableDataset:
    """The paragraphs of a text file, or a JSON or Parquet file's rows; raises `UserError` where there are none."""
    if not path.is_file():
        raise UserError(f"--text: there is no file {path}")
    datasets.logging.set_verbosity(logging.CRITICAL)  # what is wrong with the file is said here
    suffixes = [suffix for suffix in path.suffixes if suffix not in _COMPRESSED]
    builder = _BUILDERS.get(suffixes[-1] if suffixes else "", "text")
    layout = {"sample_by": "paragraph"} if builder == "text" else {}
    return _open("--text", str(path), path=builder, data_files=str(path), **layout)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def documents(stream: IterableDataset, read: int) -> Iterator[str]:
    """The texts of the stream's rows, `read` documents having been before.

    Raises `UserError` where the stream breaks, or a row has no text.
    """
    rows = iter(stream)
    for number in itertools.count(read + 1):
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # the library raises nothing more precise
            raise UserError(
                f"document {number} cannot be read: {_in_one_line(error)}; once it can, the same command goes on"
            ) from error
        text = row.get("text", 0)
        if not isinstance(text, str | None):
            raise UserError(f'document {number} has no text in a field "text"; its fields are {", ".join(row)}')
        yield text or ""


def _open(flag: str, name: str, **arguments: Any) -> IterableDataset:
    try:
        return load_dataset(**arguments, split="train", streaming=True)
    except StopIteration as error:
        raise UserError(f"{flag}: {name} holds no document") from error
    except Exception as error:  # the library raises nothing more precise
        raise UserError(f"{flag}: {name} cannot be read: {_in_one_line(error)}") from error


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
