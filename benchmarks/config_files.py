"""Configurations of `configs/`, to be changed before they are used."""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def read_config(file: Path) -> ConfigDict:
    """What the file's `get_config()` gives, unlocked."""
    return runpy.run_path(str(file))["get_config"]().unlock()
