"""What is compiled, and when."""

import jax
import jax.numpy as jnp
import numpy as np
from compiled import Program
from enumerable import TinyWorld
from helpers import run, short_config

from gfn_jax.policy import scorer
from gfn_jax.policy.scorer import score
from gfn_jax.types import Trajectories

COMPILED = "/jax/core/compile/backend_compile_duration"


def test_nothing_is_compiled_after_the_first_of_200_steps_with_prompts_of_all_lengths(tmp_path):
    sentence = "Mara walked to the market and bought a red apple for her brother who was waiting at home"
    prompts = [f"{' '.join(sentence.split()[:words])} {number}" for words in (2, 4, 9, 17) for number in range(9)]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    workdir = tmp_path / "run"
    metrics = workdir / "metrics.jsonl"
    settings = short_config(
        data__path=str(tmp_path / "prompts.txt"),
        data__prompt_buckets=(8, 16, 32),
        sampling__max_len=3,
        sampling__support_min_p=0.0,
        train__steps=200,
        train__prompts_per_step=2,
        train__microbatch_prompts=2,
        train__eval_every=200,
        train__checkpoint_every=200,
        eval__prompts_per_batch=5,
        eval__samples_per_prompt=2,
    )
    late: list[tuple[int, str]] = []

    def watch(event: str, duration: float, **of: str) -> None:
        steps = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        if event == COMPILED and steps > 1:  # a line of validation, then one of the first step
            late.append((steps, of.get("fun_name", "")))

    jax.monitoring.register_event_duration_secs_listener(watch)
    try:
        said = run(settings, workdir)
    finally:
        jax.monitoring.unregister_event_duration_listener(watch)
    assert late == []
    assert "compiled 11 functions in" in said  # sample, likelihood and update for each bucket, and validation's two


def test_no_more_logits_are_held_than_one_chunk_has(monkeypatch):
    """Neither the value nor the gradient of the objective's scores keeps [N, T, V]."""
    world = TinyWorld(words=101, banned=26, min_len=1, max_len=6)
    architecture, rows = world.structure.architecture, 2 * 5
    vocabulary, width = architecture.padded_vocab_size, architecture.n_embd
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 101, (rows, 6)), jnp.int32)
    trajectories = Trajectories.given(tokens, jnp.full(rows, 6, jnp.int32))

    def total(adapter, frozen):
        models = world.structure.policy_and_frozen(adapter, frozen)
        scores = score(*models, world.rules, world.prompts, trajectories)
        return scores.log_pf_NxL.sum() + scores.log_pterm_NxT.sum()

    for states in (2, 3):
        monkeypatch.setattr(scorer, "CHUNK_ELEMENTS", states * rows * vocabulary)
        for function in (total, jax.grad(total)):
            text = jax.jit(lambda *given, function=function: function(*given)).lower(world.adapter, world.frozen)
            program = Program(text.compile().as_text())
            shapes = {shape for each in program.arrays_with(vocabulary) for _, shape in each.arrays if shape}
            logits = [np.prod(shape) for shape in shapes if width not in shape]
            assert max(logits) == states * rows * vocabulary
