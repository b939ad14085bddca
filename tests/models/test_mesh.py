"""The mesh: what is split over what, and what one device's part of each compiled program does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config
from jax.sharding import PartitionSpec as P
from step_programs import StepPrograms

from gfn_jax.models.gpt2 import GPT2Config
from gfn_jax.models.mesh import make_mesh, partition
from gfn_jax.planning.compiled import Program
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.rows import Rows

VOCABULARY, LAYERS, WIDTH, RANK = 5120, 2, 128, 8
PROMPTS, SAMPLES, LENGTH = 8, 8, 12
ARCHITECTURE = GPT2Config(vocab_size=VOCABULARY - 7, n_positions=128, n_embd=WIDTH, n_layer=LAYERS, n_head=4)
MESHES = [(4, 1), (2, 2), (1, 4)]


@functools.cache
def compiled_for(data, model, **settings):
    """The programs of a step over one mesh."""
    settings = config(
        data__path="-",
        model__name_or_path="-",
        model__lora__rank=RANK,
        mesh__data=data,
        mesh__model=model,
        train__prompts_per_step=PROMPTS,
        train__microbatch_prompts=PROMPTS,
        sampling__samples_per_prompt=SAMPLES,
        sampling__max_len=LENGTH,
        **settings,
    )
    return StepPrograms(settings, ARCHITECTURE, prompt_length=32)


@pytest.fixture(scope="module")
def alone():
    return compiled_for(1, 1)


@pytest.fixture(scope="module", params=MESHES, ids=lambda mesh: f"{mesh[0]}x{mesh[1]}")
def spread(request):
    return request.param, compiled_for(*request.param)


def test_products_are_counted_as_often_as_loops_run():
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]

    def either(x, weights, which):
        return jax.lax.switch(which, [lambda: x, lambda: layers(x, weights), lambda: x @ weights[0]])

    x, weights = jnp.ones((5, 7)), jnp.ones((11, 7, 7))
    for compiled in (jax.jit(layers).lower(x, weights), jax.jit(either).lower(x, weights, 0)):
        assert Program(compiled.compile().as_text()).flops == 11 * 2 * 5 * 7 * 7


def test_every_device_does_its_own_share(alone, spread):
    (_, model), compiled = spread
    layers = sum(4 * leaf.size for leaf in jax.tree.leaves(alone.frozen["blocks"]))
    # Sampling has the layers once more, outside their stacks: as much of them as the device holds.
    own, whole = {"sample": layers / model}, {"sample": layers}
    for name, program in compiled.programs.items():
        assert program.flops <= 0.26 * alone.programs[name].flops, name
        held, held_alone = compiled.temporary[name] - own.get(name, 0), alone.temporary[name] - whole.get(name, 0)
        assert held <= 0.3 * held_alone, name


def test_with_prompts_split_an_update_reduces_the_adapters_gradient_and_nothing_else():
    compiled = compiled_for(4, 1)
    gradient = sum(4 * leaf.size for leaf in jax.tree.leaves(compiled.adapter))
    collectives = compiled.programs["update"].collectives
    assert {each.operation for each in collectives} <= {"all-reduce", "all-gather"}
    reduced = sum(each.bytes * each.times for each in collectives if each.operation == "all-reduce")
    assert gradient <= reduced <= gradient + 64  # and some scalars, for the metrics
    gathered = sum(each.bytes * each.times for each in collectives if each.operation == "all-gather")
    assert gathered <= PROMPTS * SAMPLES  # which rows were bad
    assert not compiled.programs["likelihood"].collectives
    sampling = compiled.programs["sample"].collectives
    assert sum(each.bytes for each in sampling) <= 4  # whether anyone goes on


def test_with_weights_split_an_update_exchanges_what_tensor_parallelism_must():
    """Sums and parts of hidden states, low-rank products, the adapter's gradient, and figures of each state."""
    rows = PROMPTS * SAMPLES
    positions = {(PROMPTS * 32 + rows * LENGTH,), (rows * (LENGTH + 1),), (rows, LENGTH + 1)}
    expected = {(*shape, last) for shape in positions for last in (RANK, WIDTH)} | positions | {()}
    compiled = compiled_for(1, 4)
    adapter = {shape for leaf in jax.tree.leaves(compiled.adapter) for shape in (leaf.shape, leaf.shape[1:])}
    for each in compiled.programs["update"].collectives:
        assert each.operation in ("all-reduce", "all-gather")
        for _, shape in each.arrays:
            assert tuple(size for size in shape if size > 1) in expected | adapter, (each.operation, shape)


@pytest.mark.parametrize("behaviour", [{}, {"sampling__top_k": 50, "sampling__top_p": 0.9}], ids=["plain", "nucleus"])
def test_no_device_holds_logits_of_the_whole_vocabulary(behaviour):
    for name, program in compiled_for(1, 4, **behaviour).programs.items():
        whole = [shape for each in program.arrays_with(VOCABULARY) for _, shape in each.arrays]
        assert all(np.prod(shape) == VOCABULARY for shape in whole), name  # the mask of allowed items, at most


def test_fully_sharded_weights_are_put_together_layer_by_layer(alone):
    compiled = compiled_for(4, 1, mesh__fsdp=True)
    adapter = sum(4 * leaf.size for leaf in jax.tree.leaves(compiled.adapter))
    assert compiled.arguments["likelihood"] <= 0.26 * alone.arguments["likelihood"]
    for name, program in compiled.programs.items():
        assert program.flops <= 0.26 * alone.programs[name].flops
        gathered = [shape for each in program.collectives for _, shape in each.arrays if "gather" in each.operation]
        assert not any(len(shape) > 2 and shape[0] == LAYERS for shape in gathered)  # never all layers at once
    reduced = sum(
        each.bytes * each.times for each in compiled.programs["update"].collectives if each.operation == "all-reduce"
    )
    assert adapter <= reduced <= adapter + 64  # weights are gathered; no activation is summed over devices


def test_two_axes_over_the_same_mesh_axis_are_refused():
    rules = {"heads": "model", "inner": "model", "width": "data"}
    assert partition((None, "heads", "width"), rules) == P(None, "model", "data")
    with pytest.raises(ValueError, match="same mesh axis"):
        partition(("heads", "inner"), rules)


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        (5, 1, "the mesh 5 x 1 .* does not fit the 4 devices here"),
        (-1, 3, None),
        (-1, 8, "the mesh -1 x 8 .* does not fit the 4 devices here"),
        (-1, -1, "only one of them can be the rest"),
        (0, 1, "mesh.data=0: a mesh axis is 1 or more"),
    ],
)
def test_a_mesh_fits_the_devices_or_is_refused(data, model, message):
    if message is None:
        assert dict(make_mesh(data, model).shape) == {"process": 1, "data": 1, "model": 3}
    else:
        with pytest.raises(UserError, match=message):
            make_mesh(data, model)


def test_the_rest_of_the_devices_is_found():
    assert dict(make_mesh(-1, 2).shape) == {"process": 1, "data": 2, "model": 2}
    assert dict(make_mesh(1, -1).shape) == {"process": 1, "data": 1, "model": 4}


def test_rows_come_back_as_they_were_placed():
    rows = Rows(make_mesh(2, 2))
    own = {"tokens": np.arange(24).reshape(8, 3), "lengths": np.arange(8)}
    placed_rows = rows.place(own)
    assert placed_rows["tokens"].sharding == rows.sharding
    jax.tree.map(np.testing.assert_array_equal, rows.fetch(placed_rows), own)
    assert list(rows.own("abcd")) == list("abcd")
    assert rows.numbers(4) == range(4)
