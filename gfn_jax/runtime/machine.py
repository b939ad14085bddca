"""On what a run computes, and with which versions."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("gfn-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "transformers")

_OF_NO_PROGRAM = ("--xla_force_host_platform_device_count", "--xla_gpu_shard_autotuning")


def describe_machine() -> dict[str, str | int]:
    """Devices, processes, system, and the versions of what is installed."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "xla_flags": _xla_flags(),
        "cpu_count": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.machine()}",
        "commit": describe_commit(),
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def rounding_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of two machines (`describe_machine`) makes other programs of the same functions, in words; or nothing."""
    return " and ".join(
        f"{name.replace('_', ' ')} {now[name] or 'none'} instead of {before[name] or 'none'}"
        for name in ("platform", "device_kind", "jaxlib", "xla_flags")
        if name in before and before[name] != now[name]
    )


def describe_devices(used: int) -> str:
    """How many of all processes' devices are `used`, and of what kind: "8 of 8 NVIDIA H100 80GB HBM3"."""
    return f"{used} of {jax.device_count()} {jax.devices()[0].device_kind}"


def describe_commit() -> str:
    """The checkout's commit, marked where the files differ from it; "unknown" where this is no checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout
    except OSError:  # no git
        said = ""
    return said.strip() or "unknown"


def _xla_flags() -> str:
    """The compiler's flags, in alphabetical order, but for those that change no program."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    return " ".join(sorted(flag for flag in flags if not flag.startswith(_OF_NO_PROGRAM)))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
