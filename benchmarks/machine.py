"""Where and of what a result was measured."""

import os
import platform
import subprocess


def describe() -> dict[str, str]:
    """The commit (marked where the tree differs from it), the processor or accelerator, and versions."""
    import jax  # here, because workers that a benchmark spawns import its modules again

    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip() or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
