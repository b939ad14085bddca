"""What JAX must be told before it computes anything."""

import os
from pathlib import Path

import jax

from gfn_jax.runtime.cache import cache_directory
from gfn_jax.runtime.errors import UserError

_ACCELERATORS = {  # a file that the system has where there is one -> what it is, and the extra that computes on it
    "/dev/nvidia0": ("an NVIDIA GPU", "cuda13"),
    "/dev/accel0": ("a TPU", "tpu"),
}


def configure_jax(dtype: str, matmul_precision: str = "highest") -> None:
    """Turns on float64 where a run asks for it, products of float32 in float32, and the persistent compilation cache.

    Unless told otherwise, TPUs would round the operands of such products to bfloat16, and GPUs to TF32. The cache lies
    in JAX_COMPILATION_CACHE_DIR, or else in the user's cache directory. Raises `UserError` where the machine has an
    accelerator that this JAX knows nothing of.
    """
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if dtype != "bfloat16":
        jax.config.update("jax_default_matmul_precision", matmul_precision)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    check_accelerator()


def share_compiled(workdir: Path) -> None:
    """Keeps what several processes compile where all of them see it, unless JAX_COMPILATION_CACHE_DIR says where.

    Process 0 alone writes there. Were it a disk of its own machine, at the next start the others would compile what it
    finds; and on GPUs, where processes share out the search for the fastest kernels, wait for its part of the search.
    They share it out no longer.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_gpu_shard_autotuning" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_shard_autotuning=false".strip()


def check_accelerator() -> None:
    """Raises `UserError` where JAX computes on the CPU of a machine with an accelerator, and nobody asked for that."""
    if jax.config.values["jax_platforms"] or jax.default_backend() != "cpu":
        return
    for file, (what, extra) in _ACCELERATORS.items():
        if Path(file).exists():
            raise UserError(
                f"this machine has {what}, and JAX computes on its CPU: pip install 'jax[{extra}]=={jax.__version__}', "
                "or set JAX_PLATFORMS=cpu to mean it"
            )
