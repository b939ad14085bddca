"""Where the package keeps what can be made again."""

import os
from pathlib import Path


def cache_directory(name: str) -> Path:
    """A part of the user's cache directory (XDG_CACHE_HOME, or ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gfn_jax" / name
