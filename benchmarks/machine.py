"""Where and of what a result was measured."""

import os
import platform
from pathlib import Path


def describe() -> dict[str, str]:
    """The commit (marked where the tree differs from it), processor and accelerator, and versions."""
    import jax  # here, because workers that a benchmark spawns import its modules again

    from gfn_jax.runtime.machine import describe_commit

    return {
        "commit": describe_commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
        "processor": _processor(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _processor() -> str:
    """Its maker's name for it, where the system says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
