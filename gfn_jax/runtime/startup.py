"""What JAX must be told before it computes anything."""

import os

import jax

from gfn_jax.runtime.cache import cache_directory


def configure_jax(dtype: str) -> None:
    """Turns on float64 where a run asks for it, and the persistent compilation cache.

    The cache lies in JAX_COMPILATION_CACHE_DIR, or else in the user's cache directory.
    """
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
