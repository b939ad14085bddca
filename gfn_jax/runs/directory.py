"""The directory of a run: whose it is, and what it began from."""

import fcntl
import hashlib
import json
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gfn_jax.config.reading import SAFE_TO_CHANGE, WHERE_CONTENT_IS, differing_keys, read_run_config
from gfn_jax.config.schema import Config, beginning_from
from gfn_jax.models import peft_adapters
from gfn_jax.models.hf_files import find_directory
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.json_files import replace_file

_VISIBLE_WITHIN_S = 60.0  # by then a network's file system shows elsewhere what was written
_BEGAN_FROM = "began_from"
_FIRST_FILES = ("lock", "run_id", "run_id.new", "data.sha256", "data.sha256.new", "config.json.new", "compiled")
"""What a run that was killed while it began may leave behind."""

_MOST_KEYS = 5  # that an error names


def check_ownership(workdir: Path, config: Config) -> None:
    """Raises `UserError`, naming keys, where the directory holds a run of another configuration."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir} is a file")
    if (workdir / "config.json").exists():
        if keys := differing_keys(config, read_run_config(workdir), (*SAFE_TO_CHANGE, *WHERE_CONTENT_IS)):
            keys.sort(key=lambda key: not key.startswith(("task.", "data.", "model.")))  # what says most comes first
            more = f" and {len(keys) - _MOST_KEYS} more" if len(keys) > _MOST_KEYS else ""
            raise UserError(
                f"{workdir} belongs to a run with another configuration; these keys differ: "
                f"{', '.join(keys[:_MOST_KEYS])}{more}. Choose another --workdir, or set them as they were"
            )
    elif workdir.exists() and any(file.name not in _FIRST_FILES for file in workdir.iterdir()):
        raise UserError(f"--workdir {workdir} is not empty and holds no run (no config.json); choose another")


def read_run_id(workdir: Path) -> str:
    """The name that the run in the directory has for ever, or a new one."""
    file = workdir / "run_id"
    return file.read_text().strip() if file.exists() else uuid.uuid4().hex


def check_visible(workdir: Path, run_id: str) -> None:
    """Raises `UserError` where the directory does not become the run's that another process made of it."""
    until = time.monotonic() + _VISIBLE_WITHIN_S
    while read_run_id(workdir) != run_id:
        if time.monotonic() > until:
            raise UserError(
                f"--workdir {workdir}, on {socket.gethostname()}, is not the directory that process 0 writes to: all "
                "processes of a run must see the same one"
            )
        time.sleep(0.5)


def namespace(workdir: Path, run_id: str) -> str:
    """What a run calls its own elsewhere. A copy of its directory is another run, and gets another name."""
    seal = hashlib.sha256(f"{run_id} {workdir.resolve()}".encode()).hexdigest()
    return f"{re.sub('[^A-Za-z0-9_.-]', '_', workdir.resolve().name)}-{seal[:16]}"


def _claim(workdir: Path, config: Config, data_hash: str, run_id: str) -> None:
    """Writes whose the directory is: `run_id`, `data.sha256` and, last, `config.json`."""
    replace_file(workdir / "run_id", f"{run_id}\n")
    replace_file(workdir / "data.sha256", f"{data_hash}\n")
    replace_file(workdir / "config.json", json.dumps(config.model_dump(mode="json"), indent=2) + "\n")


@contextmanager
def claimed(workdir: Path, config: Config, data_hash: str, run_id: str) -> Iterator[None]:
    """A context that one process at a time can be in; makes the directory, and writes down whose it is.

    Raises `UserError` where another process is in it, or has made it another run's meanwhile.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / "lock").open("w")
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error}") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is training in {workdir}") from error
        check_ownership(workdir, config)
        check_data(workdir, data_hash)
        _claim(workdir, config, data_hash, run_id)
        yield


def keep_beginning(workdir: Path, config: Config) -> None:
    """Copies the adapter that the run begins from, which its table of before and after is about, into the directory."""
    if not config.model.lora.init_from or (workdir / _BEGAN_FROM).exists():
        return
    source = find_directory(config.model.lora.init_from, "model.lora.init_from", peft_adapters.FILES)
    new = workdir / f"{_BEGAN_FROM}.new"
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for name in peft_adapters.FILES:
            if (source / name).exists():
                shutil.copyfile(source / name, new / name)
        new.rename(workdir / _BEGAN_FROM)
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error}") from error


def with_kept_beginning(workdir: Path, config: Config) -> Config:
    """The configuration, which begins from the directory's own copy of its adapter where there is one."""
    kept = workdir / _BEGAN_FROM
    return beginning_from(str(kept), config) if config.model.lora.init_from and kept.is_dir() else config


def check_data(workdir: Path, data_hash: str) -> None:
    """Raises `UserError` where the run in the directory began on other data."""
    file = workdir / "data.sha256"
    if file.exists() and file.read_text().strip() != data_hash:
        raise UserError(
            f"the run in {workdir} began on other data: what data.path holds has changed since, "
            "and with it the split into training and validation. Choose another --workdir, or restore the file"
        )
