"""Where and of what a result was measured."""

import os
import platform


def describe() -> dict[str, str]:
    """The commit (marked where the tree differs from it), the processor or accelerator, and versions."""
    import jax  # here, because workers that a benchmark spawns import its modules again

    from gfn_jax.runtime.machine import describe_commit

    return {
        "commit": describe_commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
