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


def claim(workdir: Path, config: Config) -> None:
    """Makes the directory and writes `config.json`, whole or not at all."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        new = workdir / "config.json.new"
        new.write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n")
        os.replace(new, workdir / "config.json")
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error}") from error


class JsonLines:
    """A file of one JSON object a line, each with its "step"."""

    def __init__(self, file: Path, after_step: int):
        """Opens the file to go on after a step; lines of later steps, from before a restart, are cut."""
        kept = []
        if file.exists():
            kept = [line for line in file.read_text().splitlines() if json.loads(line)["step"] <= after_step]
        self._file = file.open("w", encoding="utf-8")
        self._file.writelines(f"{line}\n" for line in kept)
        self._file.flush()

    def write(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        self._file.writelines(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n" for row in rows)
        self._file.flush()

    def close(self) -> None:
        self._file.close()
