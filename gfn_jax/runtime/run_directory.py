"""The directory of a run: whose it is, and its files of one JSON object a line."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gfn_jax.config import Config, differing_keys, read_run_config
from gfn_jax.errors import UserError


def check_ownership(workdir: Path, config: Config) -> None:
    """Raises `UserError`, naming keys, where the directory holds a run of another configuration."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir} is a file")
    if (workdir / "config.json").exists():
        if keys := differing_keys(config, read_run_config(workdir)):
            raise UserError(
                f"{workdir} belongs to a run with another configuration; these keys differ: {', '.join(keys)}. "
                "Choose another --workdir, or set them as they were"
            )
    elif workdir.exists() and any(workdir.iterdir()):
        raise UserError(f"--workdir {workdir} is not empty and holds no run (no config.json); choose another")


def claim(workdir: Path, config: Config, data_hash: str) -> None:
    """Makes the directory and writes whose it is: `config.json` and `data.sha256`."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _replace(workdir / "config.json", json.dumps(config.model_dump(mode="json"), indent=2) + "\n")
        _replace(workdir / "data.sha256", f"{data_hash}\n")
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error}") from error


def check_data(workdir: Path, data_hash: str) -> None:
    """Raises `UserError` where the run in the directory began on other data."""
    file = workdir / "data.sha256"
    if file.exists() and file.read_text().strip() != data_hash:
        raise UserError(
            f"the run in {workdir} began on other data: what data.path holds has changed since, "
            "and with it the split into training and validation. Choose another --workdir, or restore the file"
        )


def _replace(file: Path, content: str) -> None:
    """Writes a file whole or not at all."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(content, encoding="utf-8")
    os.replace(new, file)


class JsonLines:
    """A file of one JSON object a line, each with its "step"."""

    def __init__(self, file: Path, after_step: int):
        """Opens the file to go on after a step (-1: from the beginning).

        Lines of later steps, from before a restart, are cut, and so is a last line that was not
        written to its end.
        """
        if file.exists():
            whole = file.read_text(encoding="utf-8").split("\n")[:-1]
            kept = [line for line in whole if json.loads(line)["step"] <= after_step]
            _replace(file, "".join(f"{line}\n" for line in kept))
        self._file = file.open("a", encoding="utf-8")

    def write(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        self._file.writelines(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n" for row in rows)
        self._file.flush()

    def close(self) -> None:
        self._file.close()
