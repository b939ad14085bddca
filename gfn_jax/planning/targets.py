"""Machines by name: what JAX must be told to compile for one, and what each of its devices has.

A target is `NAME:DEVICES`. NAME is a file of `targets/`, or the path of a file of one's own that says the same of
another device. DEVICES is the topology of a slice for TPUs, such as 2x4, and a number for GPUs.
"""

import dataclasses
import importlib.util
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from gfn_jax.runtime.errors import UserError

DIRECTORY = Path(__file__).parent / "targets"
_PLUGINS = {"tpu": ("libtpu", "plan-tpu"), "gpu": ("jax_cuda13_plugin", "plan-gpu")}
"""The package that compiles for a kind of device, and the extra of this one that installs it."""


_WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",  # asks nobody which TPU this is
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing is locked that several might compile for
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # any that libtpu knows: which is compiled for is asked for beside
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine's devices, which only compilers know.

    name                 as it was asked for
    kind                 "tpu" or "gpu"
    memory_bytes         of one device
    flops_per_s          of one device, of products in bfloat16, as its maker says
    memory_bytes_per_s   of one device's memory, as its maker says
    """

    name: str
    kind: str
    description: str
    devices: tuple[Any, ...]
    memory_bytes: int
    flops_per_s: float
    memory_bytes_per_s: float

    @property
    def usable_bytes(self) -> int:
        """What JAX takes of a device's memory, unless told otherwise: of a GPU's three quarters."""
        return self.memory_bytes * 3 // 4 if self.kind == "gpu" else self.memory_bytes

    @property
    def hosts(self) -> int:
        return len({device.process_index for device in self.devices})


def known() -> list[str]:
    """The names of the targets that are described here."""
    return sorted(file.stem for file in DIRECTORY.glob("*.toml"))


def find_target(name: str) -> Target:
    """The target of this name.

    Raises `UserError` where there is none, or where the package is missing that compiles for it.
    """
    base, _, size = name.partition(":")
    file = Path(base) if base.endswith(".toml") else DIRECTORY / f"{base}.toml"
    if not file.is_file():
        raise UserError(
            f"--target: there is no {base!r}; there are {', '.join(known())}, or the path of a .toml file like theirs"
        )
    described = _read(file)
    kind = described["kind"]
    package, extra = _PLUGINS[kind]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"compiling for {base} needs the package {package}: pip install '.[{extra}]' in the checkout")
    devices = _tpu(base, described, size) if kind == "tpu" else _gpus(described, size)
    return Target(
        name,
        kind,
        f"{len(devices)} x {described['name']}",
        tuple(devices),
        described["memory_bytes"],
        described["bfloat16_flops_per_s"],
        described["memory_bytes_per_s"],
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        described = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--target: {file} cannot be read: {error}") from error
    wanted = {"kind", "name", "memory_bytes", "bfloat16_flops_per_s", "memory_bytes_per_s"}
    wanted |= {"compiler"} if described.get("kind") == "gpu" else {"generation", "smallest"}
    if missing := sorted(wanted - described.keys()):
        raise UserError(f"--target: {file} does not say {', '.join(missing)}")
    if described["kind"] not in _PLUGINS:
        raise UserError(f"--target: {file}: kind is {described['kind']!r}; it is tpu or gpu")
    return described


def _tpu(base: str, described: Mapping[str, Any], size: str) -> list[Any]:
    size = size or described["smallest"]
    if not re.fullmatch(r"\d+(x\d+){1,2}", size):
        raise UserError(f"--target: of a {base} the slice is asked for as {base}:{described['smallest']}, not {size!r}")
    for name, value in _WITHOUT_A_TPU.items():
        os.environ.setdefault(name, value)
    chips = [int(each) for each in size.split("x")]
    bounds = {}
    if len(chips) == 2 and min(chips) < 2:  # less than one host has
        bounds = {"chips_per_host_bounds": (*chips, 1)}
    return _devices(base, size, platform="tpu", topology_name=f"{described['generation']}:{size}", **bounds)


def _gpus(described: Mapping[str, Any], size: str) -> list[Any]:
    try:
        count = int(size or 1)
    except ValueError:
        count = 0
    each = described.get("devices_of_a_host", 8)
    if count < 1 or (count > each and count % each):
        raise UserError(
            f"--target: GPUs are asked for as NAME:COUNT, where COUNT is below {each} or so many hosts full"
        )
    topology = f"1x{max(1, count // each)}x{min(count, each)}"
    config = _text_proto(described["compiler"])
    return _devices(
        described["name"], size, platform="cuda", topology_name=topology, topology=topology, target_config=config
    )


def _devices(base: str, size: str, **asked: Any) -> list[Any]:
    try:
        return list(topologies.get_topology_desc(**asked).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--target: no {base} with {size!r}: {' '.join(str(error).split())[:200]}") from error


def _text_proto(values: Mapping[str, Any], indent: str = "") -> str:
    """A table as XLA reads such descriptions."""
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{key} {{\n{_text_proto(value, indent + '  ')}{indent}}}\n")
        else:
            said = f'"{value}"' if isinstance(value, str) else str(value)
            lines.append(f"{indent}{key}: {said}\n")
    return "".join(lines)
