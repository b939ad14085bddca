"""What JAX must be told before it computes anything."""

import os
from pathlib import Path

import jax


def configure_jax(dtype: str) -> None:
    """Turns on float64 where a run asks for it, and the persistent compilation cache.

    The cache lies in JAX_COMPILATION_CACHE_DIR, or else in the user's cache directory.
    """
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache_home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(cache_home / "gfn_jax" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
