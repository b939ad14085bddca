"""Beam search is Hugging Face's, token for token; with groups, a plain loop's over whole sequences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import MINIATURE
from transformers import AutoTokenizer, GPT2LMHeadModel

from gfn_jax.models.hf_architecture import read_architecture
from gfn_jax.models.hf_weights import load_weights
from gfn_jax.models.layout import WHEREVER
from gfn_jax.models.parts import ModelStructure
from gfn_jax.policy.beam_search import beam_search
from gfn_jax.policy.largest import largest
from gfn_jax.policy.masks import make_rules
from gfn_jax.policy.scorer import score
from gfn_jax.runs.hf_export import generation_config
from gfn_jax.text.prompts import pad_to_bucket
from gfn_jax.types import LoRAConfig, Trajectories

TEXTS = ["Mara walked to the market.", "Tom bought a lamp. He was late.", "The rain stopped."]


@pytest.fixture(scope="module")
def world():
    """The miniature's language model there and here, some prompts, and masks with bans and lengths."""
    directory = MINIATURE / "gpt2"
    architecture = read_architecture(directory)
    structure = ModelStructure(architecture, LoRAConfig(1, 1.0, ("c_attn",)), dtype=jnp.float32, remat=False)
    frozen = jax.device_put(load_weights(directory, architecture, jnp.float32))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = tokenizer(TEXTS).input_ids
    stop = tokenizer.encode(".")[0]
    banned = np.zeros(architecture.vocab_size, bool)
    banned[::7] = True
    banned[stop] = False

    def rules(support):
        return make_rules(banned, architecture.padded_vocab_size, stop, 2, 9, support)

    model = GPT2LMHeadModel.from_pretrained(directory).eval()
    return model, structure, frozen, rows, rules, architecture.vocab_size


@pytest.mark.accelerator
@pytest.mark.parametrize(("rows", "size", "k"), [(3, 1009, 17), (2, 4999, 80), (1, 20011, 40)])
def test_the_largest_are_those_that_sorting_gives_and_of_equal_ones_the_first(rows, size, k):
    numbers = np.random.default_rng(size).normal(size=(rows, size)).astype(np.float32)
    few = np.where(np.arange(size) % 997 == 5, numbers, -np.inf)  # fewer than are looked for
    for each in (numbers, np.round(2 * numbers) / 2, few):
        found, expected = largest(jnp.asarray(each), k), np.argsort(-each, 1, stable=True)[:, :k]
        np.testing.assert_array_equal(found[1], expected)
        np.testing.assert_array_equal(found[0], np.take_along_axis(each, expected, 1))


def search(world, rules, **settings):
    _, structure, frozen, rows, _, _ = world

    @jax.jit
    def compute(frozen, prompts):
        return beam_search(structure.frozen(frozen), rules, prompts, **settings)

    return jax.device_get(compute(frozen, pad_to_bucket(rows, [23], 23)))


@pytest.mark.accelerator
@pytest.mark.parametrize(("beams", "has_few_kernels"), [(1, False), (3, False), (9, True)])
def test_beam_search_is_hugging_faces(world, beams, has_few_kernels):
    """As a CPU computes it, and as accelerators do, which look for more than 16 best among parts."""
    model, structure, *others = world
    structure = structure.with_layout(dataclasses.replace(WHEREVER, has_few_kernels=has_few_kernels))
    _, rows, make, vocabulary = others
    rules = make(0.0)
    found = search((model, structure, *others), rules, beams=beams)
    settings = generation_config(rules, vocabulary, 0) | {"do_sample": False, "num_beams": beams}
    settings |= {"num_return_sequences": beams, "length_penalty": 0.0, "renormalize_logits": True}
    for row, ids in enumerate(rows):
        output = model.generate(
            torch.tensor([ids]), early_stopping=False, output_scores=True, return_dict_in_generate=True, **settings
        )
        for rank, sequence in enumerate(output.sequences[:, len(ids) :].tolist()):
            length = found.length_BxS[row, rank]
            assert sequence[: length + 1] == [*found.tokens_BxSxL[row, rank, :length], rules.terminator]
        if beams > 1:
            np.testing.assert_allclose(found.log_p_BxS[row], output.sequences_scores, atol=1e-4)


def test_scores_are_the_masked_models_own_log_probabilities(world):
    _, structure, frozen, rows, make, _ = world
    for rules in (make(0.0), make(0.02)):
        found = search(world, rules, beams=5)
        is_found = np.isfinite(found.log_p_BxS)
        assert is_found.any(1).all()
        given = Trajectories.given(
            jnp.asarray(found.tokens_BxSxL.reshape(-1, rules.max_len)), jnp.asarray(found.length_BxS.reshape(-1))
        )
        model = structure.frozen(frozen)
        scores = score(model, model, rules, pad_to_bucket(rows, [23], 23), given)
        at_stop = np.take_along_axis(np.asarray(scores.log_pterm_NxT), found.length_BxS.reshape(-1, 1), 1)[:, 0]
        expected = (np.asarray(scores.log_pf_NxL).sum(1) + at_stop).reshape(found.log_p_BxS.shape)
        np.testing.assert_allclose(found.log_p_BxS[is_found], expected[is_found], atol=1e-3)


def plain_search(world, rules, ids, *, beams, groups, diversity_penalty):
    """Groups of beams one after the other, each state a list of tokens that the model reads from its beginning."""
    model, vocabulary = world[0], world[5]
    width = beams // groups
    allowed = np.asarray(rules.is_word_V)[:vocabulary]

    def log_p(tokens):
        with torch.no_grad():
            logits = model(torch.tensor([ids + tokens])).logits[0, -1].double().numpy()
        may = allowed.copy()
        may[rules.terminator] = len(tokens) >= rules.min_len
        if len(tokens) == rules.max_len:
            may = np.arange(vocabulary) == rules.terminator
        logits = np.where(may, logits, -np.inf)
        return logits - np.logaddexp.reduce(logits)

    running = [[(0.0, [])] for _ in range(groups)]
    ended = [[] for _ in range(groups)]
    for _ in range(rules.max_len + 1):
        uses = np.zeros(vocabulary)
        for group in range(groups):
            if len(ended[group]) == width and running[group][0][0] <= ended[group][-1][0]:
                continue
            options = [
                (total + value, [*tokens, item])
                for total, tokens in running[group]
                for item, value in enumerate(log_p(tokens) - diversity_penalty * uses)
                if np.isfinite(value)
            ]
            best = sorted(options, key=lambda option: -option[0])[: 2 * width]
            ended[group] += [option for option in best[:width] if option[1][-1] == rules.terminator]
            ended[group] = sorted(ended[group], key=lambda option: -option[0])[:width]
            running[group] = [option for option in best if option[1][-1] != rules.terminator][:width]
            for _, tokens in running[group]:
                uses[tokens[-1]] += 1
            if not running[group]:
                running[group] = [(-np.inf, [])]
    return sorted((option for group in ended for option in group), key=lambda option: -option[0])


@pytest.mark.parametrize("settings", [{"groups": 4, "diversity_penalty": 1.5}, {"groups": 2, "diversity_penalty": 0.7}])
def test_diverse_beam_search_is_a_plain_loop_s(world, settings):
    rules = world[4](0.0)
    found = search(world, rules, beams=4, **settings)
    for row, ids in enumerate(world[3][:2]):
        expected = plain_search(world, rules, ids, beams=4, **settings)
        for rank, (value, tokens) in enumerate(expected):
            length = found.length_BxS[row, rank]
            assert [*found.tokens_BxSxL[row, rank, :length], rules.terminator] == tokens
            assert found.log_p_BxS[row, rank] == pytest.approx(value, abs=1e-3)
