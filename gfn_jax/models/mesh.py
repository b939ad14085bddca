"""The device mesh, and what is placed where on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gfn_jax.models.layout import AxisNames, Layout
from gfn_jax.models.parts import ModelStructure
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.rows import BATCH_AXES

AXES = ("process", "data", "model")
_RULES = {"vocabulary": "model", "heads": "model", "inner": "model"}
"""The mesh axis that an axis of a weight is split over; others are whole on every device."""
_FULLY_SHARDED = _RULES | {"width": "data"}
_SAID = {"vocabulary": "(padded) vocabulary", "heads": "key-value heads", "inner": "MLP's inner width"}


def make_mesh(data: int, model: int, devices: Sequence[Any] | None = None, batches: Sequence[int] = ()) -> Mesh:
    """A mesh that splits prompts `data` ways and weights `model` ways; -1 takes the devices that the other leaves.

    Over all devices that are here, or over `devices`, which need not be here at all. Where `data` is -1 it is no more
    than batches of these sizes can be split into evenly, and some devices may be left idle.

    Its axes are `process` x `data` x `model`: what is asked for as data is made of the processes and of devices
    in each, so that whatever is split over the axes `data` and `model` stays within a process.
    Raises `UserError` where the mesh does not fit the devices, or not the processes.
    """
    devices_of: dict[int, list[Any]] = {}
    for device in jax.devices() if devices is None else devices:
        devices_of.setdefault(device.process_index, []).append(device)
    processes, available = len(devices_of), sum(map(len, devices_of.values()))
    sizes = {"data": data, "model": model}
    if wrong := [f"mesh.{axis}={size}" for axis, size in sizes.items() if size < 1 and size != -1]:
        raise UserError(f"{' and '.join(wrong)}: a mesh axis is 1 or more, or -1 for the rest of the devices")
    if data == model == -1:
        raise UserError("mesh.data and mesh.model are both -1: only one of them can be the rest of the devices")
    if -1 in sizes.values():
        given = max(sizes.values())
        rest = available // given
        if data == -1:
            rest = next((ways for ways in range(rest, 0, -processes) if not any(size % ways for size in batches)), rest)
        sizes = {axis: rest if size == -1 else size for axis, size in sizes.items()}
    asked = f"the mesh {data} x {model} (data x model)"
    data, model = sizes["data"], sizes["model"]
    if not 0 < data * model <= available:
        raise UserError(f"{asked} does not fit the {available} devices here")
    if data % processes:
        raise UserError(
            f"{asked} cannot be shared by {processes} processes: mesh.data, here {data}, is split over them, "
            "and mesh.model stays within one"
        )
    each = data // processes * model
    taken = [device for index in sorted(devices_of) for device in devices_of[index][:each]]
    if len(taken) < processes * each:
        raise UserError(f"{asked} needs {each} devices in each of the {processes} processes, and one has fewer")
    return Mesh(_grid(taken, processes, data // processes, model), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _grid(devices: Sequence[Any], processes: int, data: int, model: int) -> np.ndarray:
    """Devices [process, data, model], neighbours on the machine near each other where JAX knows its network."""
    try:
        grid = mesh_utils.create_hybrid_device_mesh((data, model), (processes, 1), devices, process_is_granule=True)
    except (AssertionError, NotImplementedError, ValueError):  # a part of a TPU slice that is no block of it
        grid = np.asarray(devices)
    return grid.reshape(processes, data, model)


def batch_size(mesh: Mesh | AbstractMesh) -> int:
    """How many ways the mesh splits a batch: the configuration's `mesh.data`."""
    return mesh.shape["process"] * mesh.shape["data"]


def check_splits(name: str, size: int, ways: int) -> None:
    """Raises `UserError` where `size` of something cannot be split `ways` ways."""
    if size % ways:
        raise UserError(f"{name} {size} cannot be split over mesh.data = {ways}")


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def partition(axes: Sequence[str | None], rules: Mapping[str, str]) -> P:
    """Where an array lies whose axes have these names; raises `ValueError` where two would share a mesh axis."""
    over = [rules.get(axis) if axis else None for axis in axes]
    taken = [axis for axis in over if axis]
    if len(set(taken)) < len(taken):
        raise ValueError(f"two axes of {tuple(axes)} would be split over the same mesh axis: {over}")
    return P(*over)


def weight_shardings(mesh: Mesh, structure: ModelStructure, *, fsdp: bool) -> Any:
    """A sharding for every frozen weight, by the rule table.

    With `fsdp` (fully sharded data parallelism) the devices that hold the same part of a weight, within a
    process, hold a part of that part each. Raises `UserError`, naming a weight, where one cannot be split so.
    """

    def sharding(path, leaf):
        keys = tuple(entry.key for entry in path)
        axes = structure.architecture.weight_axes(keys, leaf.ndim)
        spec = _weight_partition(
            axes, leaf.shape, mesh, _FULLY_SHARDED if fsdp else _RULES, where_divisible=_is_scale(keys)
        )
        for size, name, axis in zip(leaf.shape, axes, spec, strict=True):
            if axis and size % mesh.shape[axis]:
                raise UserError(
                    f"mesh.{axis} = {mesh.shape[axis]} does not divide the {size} of the {_SAID.get(name or '', name)} "
                    f"(weight {'.'.join(keys)}); "
                    + ("split the prompts instead, with mesh.data" if axis == "model" else "unset mesh.fsdp")
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, structure.abstract_frozen)


def model_layout(mesh: Mesh, *, fsdp: bool, of_shard: bool = False, rounds_adapter: bool = False) -> Layout:
    """Where a model's values lie while it computes with weights that `weight_shardings` placed.

    `of_shard` is for the computation of one device's prompts under a `jax.vmap` over all of them; `rounds_adapter`
    allows decoding to do so where it is the quicker for it.

    What is kept of every position between the parts of a layer is split over `model` as well, by its
    width: tensor parallelism alone would keep all of it on every device (Korthikanti et al. 2022 split it
    by position). Weights that are fully sharded are put together layer by layer, when they are needed.
    """
    fsdp = fsdp and mesh.shape["data"] > 1
    # On accelerators small products wait for memory and, on GPUs, for their own launch.
    platform = mesh.devices.flat[0].platform
    decoding: dict[str, Any] = {
        "has_few_kernels": platform != "cpu",
        "rounds_adapter": rounds_adapter and platform == "gpu",
        "multiple_of_samples": 8 if platform == "gpu" else 1,
    }
    shards = 1 if of_shard else batch_size(mesh)
    if mesh.shape["model"] == 1 and not fsdp:
        return Layout(shards=shards, **decoding)

    def spread(x: jax.Array) -> jax.Array:
        prompts = None if of_shard else BATCH_AXES
        between = (P.UNCONSTRAINED,) * (x.ndim - 2)
        is_split = x.shape[-2] > 1 and x.shape[-1] % mesh.shape["model"] == 0
        width = "model" if is_split else None  # in decoding there is one position: nothing to save
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(prompts, *between, width)))

    def whole(axes: AxisNames, weight: jax.Array) -> jax.Array:
        spec = _weight_partition(axes, weight.shape, mesh, _RULES, where_divisible=True)
        return jax.lax.with_sharding_constraint(weight, NamedSharding(mesh, spec))

    split = frozenset(_RULES) if mesh.shape["model"] > 1 else frozenset()
    return Layout(spread, whole if fsdp else None, shards, split, **decoding)


def _is_scale(path: tuple[str, ...]) -> bool:
    return path[-2:] == ("kernel", "scale")


def _weight_partition(
    axes: Sequence[str | None], shape: tuple[int, ...], mesh: Mesh, rules: Mapping[str, str], *, where_divisible: bool
) -> P:
    """Where a weight lies, or one layer of a stack; axes may be split only `where_divisible`, as those of scales."""
    spec = partition(axes, rules)
    if not where_divisible:
        return spec
    return P(*(axis if axis and size % mesh.shape[axis] == 0 else None for size, axis in zip(shape, spec, strict=True)))
