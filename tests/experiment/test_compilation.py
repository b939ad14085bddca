"""What is compiled, and when."""

import jax
import numpy as np
import pytest
from helpers import config, run, short_config
from step_programs import StepPrograms

from gfn_jax.models.gpt2 import GPT2Config
from gfn_jax.policy import read_out

COMPILED = "/jax/core/compile/backend_compile_duration"


def test_nothing_is_compiled_after_the_first_of_48_steps_with_prompts_of_all_lengths(tmp_path):
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
        train__steps=48,
        train__prompts_per_step=2,
        train__microbatch_prompts=2,
        train__eval_every=48,
        train__checkpoint_every=48,
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
    assert "compiled 12 functions in" in said  # sample, likelihood and update for each bucket, and validation's three


@pytest.mark.parametrize("states", [2, 3])
def test_no_more_logits_are_held_than_one_chunk_has(states, monkeypatch):
    """Neither the reward's pass nor the update keeps [N, T, V]."""
    prompts, samples, length, width = 2, 5, 6, 44
    architecture = GPT2Config(vocab_size=1021, n_positions=32, n_embd=width, n_layer=2, n_head=2)
    vocabulary, rows = architecture.padded_vocab_size, prompts * samples
    settings = config(
        data__path="-",
        model__name_or_path="-",
        model__lora__rank=3,
        train__prompts_per_step=prompts,
        train__microbatch_prompts=prompts,
        sampling__samples_per_prompt=samples,
        sampling__max_len=length,
    )
    monkeypatch.setattr(read_out, "CHUNK_ELEMENTS", states * rows * vocabulary)
    monkeypatch.setattr(read_out, "FEWEST_STATES", 1)
    programs = StepPrograms(settings, architecture, prompt_length=7).programs
    for name in ("likelihood", "update"):
        shapes = {shape for each in programs[name].arrays_with(vocabulary) for _, shape in each.arrays}
        held = [np.prod(shape) for shape in shapes if vocabulary in shape and width not in shape]
        assert 0.75 < max(held) / (states * rows * vocabulary) <= 1, name  # chunks are of equal lengths
