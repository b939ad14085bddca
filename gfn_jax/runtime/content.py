"""What identifies files and values by their content: a path or a name may hold something else tomorrow."""

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def files_sha256(files: Iterable[Path]) -> str:
    """The hash of the files' contents and of their names, whatever their order and their directories."""
    return text_sha256(" ".join(sorted(f"{file.name} {file_sha256(file)}" for file in files)))


def file_sha256(file: Path) -> str:
    """The hash of a file's content; a large one is read once while it does not change."""
    status = file.stat()
    return _of_state(file.resolve(), status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _of_state(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
