"""Plans for machines that are not here: what they count, and that the programs are what accelerators like."""

import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import yaml
from config_files import read_config
from helpers import MINIATURE, ROOT, config, config_file

from gfn_jax.config.reading import parse_config
from gfn_jax.models.gpt2 import GPT2Config
from gfn_jax.models.hf_architecture import named_architecture
from gfn_jax.models.layout import WHEREVER
from gfn_jax.models.loading import make_structure
from gfn_jax.models.mesh import batch_size, make_mesh, model_layout
from gfn_jax.planning.compiled import Program
from gfn_jax.planning.compiling import compile_for
from gfn_jax.planning.flops import product_flops
from gfn_jax.planning.programs import outline, outline_for
from gfn_jax.planning.targets import find_target
from gfn_jax.runtime.errors import UserError
from gfn_jax.types import Prompts

PROMPTS, SAMPLES, LENGTH, DEPTH = 4, 8, 5, 2
ARCHITECTURE = GPT2Config(vocab_size=251, n_positions=64, n_embd=128, n_layer=DEPTH, n_head=2)

for_gpus = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="NOT CHECKED: needs the extra plan-gpu"
)
for_tpus = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="NOT CHECKED: needs the extra plan-tpu"
)


def settings(**overrides):
    return config(
        **{
            "data__path": "-",
            "model__name_or_path": "-",
            "model__dtype": "bfloat16",
            "model__lora__rank": 8,
            "mesh__data": -1,
            "train__prompts_per_step": PROMPTS,
            "train__microbatch_prompts": 2,
            "eval__prompts_per_batch": PROMPTS,
            "sampling__samples_per_prompt": SAMPLES,
            "sampling__max_len": LENGTH,
        }
        | overrides
    )


def test_a_structure_is_outlined_as_the_meshs_devices_compute_it():
    given = settings(mesh__data=2, mesh__model=2)
    drawn = outline(given, make_structure(given.model, ARCHITECTURE, WHEREVER), make_mesh(2, 2))
    prompts = Prompts.shapes(PROMPTS, 16, drawn.context.rows.sharding)

    def reading(structure):
        encode = jax.make_jaxpr(lambda frozen, prompts: structure.frozen(frozen).encode(prompts)[0])
        return str(encode(structure.abstract_frozen, prompts))

    as_trained = make_structure(given.model, ARCHITECTURE, model_layout(drawn.mesh, fsdp=False))
    assert reading(drawn.structure) == reading(as_trained) != reading(as_trained.with_layout(WHEREVER))


def test_flops_are_counted_as_often_as_loops_run():
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, weights)[0]

    def until(x, weights):
        return jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: layers(x, weights), x)

    def either(x, weights):
        return jax.lax.switch(x.sum().astype(int), [lambda: x, lambda: layers(x, weights), lambda: x @ weights[0]])

    shapes = jnp.ones((5, 7)), jnp.ones((11, 7, 7))
    assert product_flops(jax.make_jaxpr(layers)(*shapes), 1) == 11 * 2 * 5 * 7 * 7
    assert product_flops(jax.make_jaxpr(until)(*shapes), 3) == 3 * 11 * 2 * 5 * 7 * 7
    assert product_flops(jax.make_jaxpr(either)(*shapes), 1) == 11 * 2 * 5 * 7 * 7


def test_a_tpus_text_is_read_with_its_loops_and_its_padding():
    """As its compiler writes it: no trip count, a counter from 2 to 7, tiles of 8 x 128, cycles of each fusion.

    Of the second loop it does not say which number is its counter's bound.
    """
    program = Program(
        """
%body (p: (bf16[3,5,64], s32[])) -> (bf16[3,5,64], s32[]) {
  %p = (bf16[3,5,64]{2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) parameter(0)
  %f = bf16[3,5,64]{2,1,0:T(8,128)(2,1)} fusion(%p), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"100"}
}

%inner (q: bf16[3,5,64]) -> bf16[3,5,64] {
  %q = bf16[3,5,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %c = bf16[3,5,64]{2,1,0:T(8,128)(2,1)} copy(%q), backend_config={"estimated_cycles":"999"}
}

%condition (p.1: (bf16[3,5,64], s32[])) -> pred[] {
  %i = s32[]{:T(128)} get-tuple-element(%p.1), index=1
  %n = s32[]{:T(128)} constant(7)
  %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%body.2 (p.2: (s32[])) -> (s32[]) {
  %f.1 = bf16[3,5,64]{2,1,0:T(8,128)(2,1)} fusion(%p.2), calls=%inner, backend_config={"estimated_cycles":"1"}
  %f.2 = bf16[3,5,64]{2,1,0:T(8,128)(2,1)} fusion(%p.2), calls=%inner, backend_config={"estimated_cycles":"1"}
}

%condition.2 (p.3: (s32[])) -> pred[] {
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.3), index=0
  %n.2 = s32[]{:T(128)} constant(9)
  %n.3 = s32[]{:T(128)} constant(4)
}

ENTRY %main (a: bf16[3,5,64]) -> bf16[3,5,64] {
  %one = s32[]{:T(128)} constant(2)
  %first = s32[]{:T(128)} copy(%one)
  %t = (bf16[3,5,64]{2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) tuple(%a, %first)
  %w = (bf16[3,5,64]{2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) while(%t), condition=%condition, body=%body
  %w.2 = (s32[]{:T(128)}) while(%t), condition=%condition.2, body=%body.2
  %g = bf16[3,5,64]{2,1,0:T(8,128)(2,1)} fusion(%w), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"30"}
}
""",
        open_loops=2,
    )
    assert (program.work.cycles, program.work.kernels) == ((7 - 2) * 100 + 2 * 2 + 30, 5 + 2 * 2 + 1 + 1)
    assert program.work_of_a_turn == (1, 100)
    assert program.padding == 2 * 3 * (8 * 128 - 5 * 64)


def test_products_that_a_gpus_library_computes_count_and_its_room_does_not():
    """As XLA writes them for a GPU that is there."""
    program = Program(
        """
ENTRY %main (a: f32[5,7], b: f32[7,11]) -> f32[5,11] {
  %a = f32[5,7]{1,0} parameter(0)
  %b = f32[7,11]{1,0} parameter(1)
  %g = (f32[5,11]{1,0}, s8[4096]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
}
"""  # noqa: E501
    )
    assert program.flops == 2 * 5 * 7 * 11
    assert program.product_bytes == 4 * (5 * 7 + 7 * 11 + 5 * 11)


def test_a_mesh_takes_as_many_devices_as_divide_its_prompts():
    """Three of the four here do not divide four prompts; neither do four a validation of six."""
    found = [
        outline_for(settings(eval__prompts_per_batch=batch, mesh__model=model), ARCHITECTURE)
        for batch, model in ((4, 1), (6, 1), (6, 2))
    ]
    assert [(each.mesh.shape["data"], each.functions.microbatch) for each in found] == [(4, 1), (2, 2), (2, 2)]


def test_of_a_comparison_each_way_of_drawing_is_a_program_and_wide_searches_take_fewer_prompts():
    programs = {each.name: each.call for each in outline_for(settings(), ARCHITECTURE).comparison(16, 2)}
    searches = ["beam 2", "diverse beam 2", "beam 10", "diverse beam 10"]
    assert list(programs) == [f"eval. {name}" for name in ("GFlowNet", "sampling", "nucleus", "greedy", *searches)]
    wide = outline_for(settings(mesh__data=1), ARCHITECTURE).comparison(16, 2)
    at_once = {each.name: len(each.call.arguments[3].length_B) for each in wide}
    assert (at_once["eval. beam 2"], at_once["eval. beam 10"]) == (PROMPTS, 1)
    call = programs["eval. beam 10"]
    trajectories, is_there_N = jax.eval_shape(call.function, *call.arguments)
    assert (trajectories.tokens_NxL.shape, is_there_N.shape) == ((PROMPTS * 2, LENGTH), (PROMPTS * 2,))


@pytest.mark.parametrize("devices", [1, 2, 4, *(pytest.param(count, marks=for_gpus) for count in (8, 16))])
def test_the_launchers_configurations_fit_the_devices_that_they_are_for(devices):
    """No microbatch need be chosen for a number of devices: each takes of its own prompts what divides them."""
    _, job = yaml.safe_load_all((ROOT / "launch" / "kubernetes.yaml").read_text())
    [container] = job["spec"]["template"]["spec"]["containers"]
    [file] = [each.split("=")[1] for each in container["args"] if each.startswith("--config=")]
    for name in (file, "configs/next_sentence_smollm2.py", "configs/contradiction_gpt2_large.py"):
        raw = read_config(ROOT / name)
        checked = parse_config(raw.to_dict())
        those = find_target(f"h100:{devices}").devices if devices > 4 else jax.devices()[:devices]
        outlined = outline_for(checked, ARCHITECTURE, those)
        ways, train = batch_size(outlined.mesh), checked.train
        assert ways == min(devices, train.prompts_per_step)
        assert outlined.functions.microbatch == min(train.microbatch_prompts, train.prompts_per_step // ways)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("h1000:8", "there is no 'h1000'; there are a100, h100, h200, v5e"),
        pytest.param("h100:12", "so many hosts full", marks=for_gpus),
        pytest.param("h100:four", "GPUs are asked for as NAME:COUNT", marks=for_gpus),
        pytest.param("v5e:four", "as v5e:1x1, not 'four'", marks=for_tpus),
    ],
)
def test_a_target_that_is_none_is_one_line(target, message):
    with pytest.raises(UserError, match=message):
        find_target(target)


def test_a_file_of_ones_own_must_say_all(tmp_path):
    (tmp_path / "mine.toml").write_text('kind = "gpu"\nname = "Mine"\n')
    with pytest.raises(
        UserError, match=r"does not say bfloat16_flops_per_s, compiler, memory_bytes, memory_bytes_per_s"
    ):
        find_target(f"{tmp_path}/mine.toml:2")


def compiled_for(target, *names, checked=None):
    """Some of the programs of a step, compiled for a target."""
    checked, found = checked or settings(), find_target(target)
    drawn = outline_for(checked, ARCHITECTURE, found.devices)
    return drawn, {each.name: compile_for(each, found) for each in drawn.step(16) if each.name in names}


@for_gpus
def test_with_prompts_split_over_gpus_the_adapters_gradient_alone_is_exchanged():
    drawn, programs = compiled_for("h100:4", "update")
    assert (drawn.mesh.shape["data"], drawn.functions.microbatch) == (4, 1)
    adapter = sum(4 * leaf.size for leaf in jax.tree.leaves(drawn.state.adapter))
    exchanged = sum(size for _, size in programs["update"].collectives.values())
    assert adapter <= exchanged <= 1.1 * adapter


@for_gpus
def test_with_weights_split_over_gpus_a_layers_partial_sums_meet_once_for_each_of_its_parts():
    """The adapter's with the kernel's: two in a layer, and of a token what the whole vocabulary needs."""
    _, programs = compiled_for("h100:2", "sample", checked=settings(mesh__data=1, mesh__model=2))
    count, _ = programs["sample"].collectives["all-reduce"]
    assert 2 * DEPTH * LENGTH < count <= (2 * DEPTH + 12) * LENGTH


@for_tpus
def test_decoding_for_a_tpu_pads_little():
    _, programs = compiled_for("v5e", "sample")
    sampling = programs["sample"]
    assert 0 < sampling.cycles_of_a_turn < sampling.cycles
    cache = 2 * DEPTH * PROMPTS * 2 * (16 + SAMPLES * LENGTH) * 64 * 2  # keys and values, in bytes
    assert sampling.padding <= 1.5 * cache  # heads of 64 in lanes of 128, and little else


@for_gpus
def test_the_command_prints_a_table_and_whether_it_fits(tmp_path):
    """And of a GPU's token few kernels."""
    own = {"model__name_or_path": str(MINIATURE / "gpt2"), "model__lora__alpha": 8.0}  # as the rank: a scale of 1
    checked = settings(data__path="none.txt", data__prompt_buckets=(16,), **own)
    command = [sys.executable, "-m", "gfn_jax.plan", f"--config={config_file(checked, tmp_path)}", "--target=h100"]
    command += [f"--json={tmp_path / 'plan.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fits: " in done.stdout
    figures = json.loads((tmp_path / "plan.json").read_text())
    assert figures["fits"]
    assert figures["peak"] < 0.1e9
    programs = {each["name"]: each for each in figures["programs"]}
    assert set(programs) == {"sample", "likelihood", "update", "val. draw", "val. rescore"}
    # Of a layer 14, and with an adapter beside the weights 25: four adapted products of four each, attention in six,
    # and norms; and what a token has once.
    depth = named_architecture(checked.model.name_or_path).depth
    assert 0 < programs["sample"]["kernels_of_a_turn"] <= 14 * depth + 22
    assert 0 < programs["val. draw"]["kernels_of_a_turn"] <= 25 * depth + 22
    assert programs["sample"]["kernels"] >= LENGTH * programs["sample"]["kernels_of_a_turn"]
