"""The device mesh, and what is placed where on it."""

from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gfn_jax.errors import UserError

_WEIGHT_RULES: dict[tuple[str, ...], tuple[str | None, ...]] = {
    # where a frozen weight lives -> the mesh axis of each of its axes
    ("wte",): ("model", None),
    ("lm_head",): ("model", None),
    ("blocks", "attn_c_attn", "kernel"): (None, None, None, "model", None),
    ("blocks", "attn_c_attn", "bias"): (None, None, "model", None),
    ("blocks", "attn_c_proj", "kernel"): (None, "model", None, None),
    ("blocks", "mlp_c_fc", "kernel"): (None, None, "model"),
    ("blocks", "mlp_c_fc", "bias"): (None, "model"),
    ("blocks", "mlp_c_proj", "kernel"): (None, "model", None),
}


def make_mesh(data: int, model: int) -> Mesh:
    """A mesh with the axes `data` and `model`; -1 takes the devices that the other axis leaves."""
    available = jax.device_count()
    sizes = {"data": data, "model": model}
    if wrong := [f"mesh.{axis}={size}" for axis, size in sizes.items() if size < 1 and size != -1]:
        raise UserError(f"{' and '.join(wrong)}: a mesh axis is 1 or more, or -1 for the rest of the devices")
    if data == model == -1:
        raise UserError("mesh.data and mesh.model are both -1: only one of them can be the rest of the devices")
    if -1 in sizes.values():
        given = max(sizes.values())
        rest = available // given
        sizes = {axis: rest if size == -1 else size for axis, size in sizes.items()}
    needed = sizes["data"] * sizes["model"]
    if not 0 < needed <= available:
        raise UserError(f"the mesh {data} x {model} (data x model) does not fit the {available} devices here")
    return jax.make_mesh(
        (sizes["data"], sizes["model"]),
        ("data", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=jax.devices()[:needed],
    )


def check_divisible(mesh: Mesh | AbstractMesh, name: str, size: int, axis: str) -> None:
    """Raises `UserError` where `size` of something cannot be split over a mesh axis."""
    if size % mesh.shape[axis]:
        raise UserError(f"{name} {size} cannot be split over mesh.{axis} = {mesh.shape[axis]}")


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def by_prompt(mesh: Mesh) -> NamedSharding:
    """The leading axis, prompts or their trajectories, over `data`."""
    return NamedSharding(mesh, P("data"))


def check_weights(mesh: Mesh, abstract_frozen: Any) -> None:
    """Raises `UserError`, naming a weight, where one cannot be split as the rules say."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_frozen):
        keys = tuple(entry.key for entry in path)
        for size, axis in zip(leaf.shape, _WEIGHT_RULES.get(keys, ()), strict=False):
            if axis and size % mesh.shape[axis]:
                raise UserError(
                    f"mesh.{axis} = {mesh.shape[axis]} does not divide an axis of size {size} of the weight "
                    f"{'.'.join(keys)}; split the prompts instead, with mesh.data"
                )


def weight_shardings(mesh: Mesh, frozen: Any) -> Any:
    """A sharding for every frozen weight, by the rule table; the others are replicated."""

    def sharding(path, _):
        keys = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
        return NamedSharding(mesh, P(*_WEIGHT_RULES.get(keys, ())))

    return jax.tree_util.tree_map_with_path(sharding, frozen)
