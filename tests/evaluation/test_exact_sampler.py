"""The comparison where the truth can be listed: of a policy that was built to sample exactly from the target."""

import dataclasses
import json
from typing import ClassVar

import numpy as np
import pytest
from enumerable import TableReward, TinyWorld
from helpers import config
from rapidfuzz.distance import Levenshtein

from gfn_jax.evaluation.comparison import compare
from gfn_jax.evaluation.methods import Resampling, all_methods
from gfn_jax.evaluation.reference import References
from gfn_jax.experiment.experiment import Experiment
from gfn_jax.experiment.train_step import StepFunctions
from gfn_jax.models.mesh import make_mesh
from gfn_jax.rewards.likelihood import log_likelihood
from gfn_jax.runtime.rows import Rows
from gfn_jax.runtime.stopwatch import Stopwatch
from gfn_jax.tasks.next_sentence import NextSentence
from gfn_jax.text.tokenizer import Tokenizer

PROMPTS = [" b c", " a b b c b"]
ITEMS = ["Ġa", "Ġb", "Ġc", ".", "Ġ", "a", "b", "c"]
LOG_Z = [3.0, -7.0]
SAMPLES = 199
FIGURES = ("log_likelihood", "log_r", "length", "diversity", "distinct")


class OfExamples(TableReward):
    """The table's rows by example, whatever the batch."""

    names: ClassVar = PROMPTS

    def components(self, frozen, examples, prompts, trajectories):
        rows = np.array([self.names.index(example) for example in examples])
        return self.look_up(self.table[rows], trajectories)


@pytest.fixture(scope="module")
def world():
    return TinyWorld(words=3, min_len=1, max_len=3, banned=4, logit_scale=0.5, embedding_std=0.5)


@pytest.fixture(scope="module")
def log_p(world):
    """The exact log-probabilities of the policy that is the target."""
    return world.exact_log_probs(world.adapter)


@pytest.fixture(scope="module")
def experiment(world, log_p, tmp_path_factory):
    directory = tmp_path_factory.mktemp("letters")
    (directory / "vocab.json").write_text(json.dumps({item: index for index, item in enumerate(ITEMS)}))
    (directory / "merges.txt").write_text("#version: 0.2\nĠ a\nĠ b\nĠ c\n")
    settings = config(
        data__path="-",
        data__prompt_buckets=(7,),
        model__name_or_path="-",
        sampling__max_len=world.max_len,
        reward__temperature_end=1.0,
        eval__prompts_per_batch=4,
        eval__samples_per_prompt=1_024,
    )
    mesh = make_mesh(1, 1)
    reward = OfExamples(world, reward_table(log_p))
    functions = StepFunctions(settings, world.structure, reward, world.rules, mesh)
    parts = (world.structure, world.adapter, world.frozen, "", world.rules, reward, functions, Stopwatch())
    return Experiment(settings, mesh, Rows(mesh), NextSentence(settings), Tokenizer(directory), *parts)


@pytest.fixture(scope="module")
def compared(world, experiment):
    methods = [*all_methods(SAMPLES, 1.0)[:2], Resampling(4_096)]
    return {each.method.name: each for each in compare(experiment, world.adapter, PROMPTS, methods, SAMPLES)}


def reward_table(log_p):
    return np.where(np.isfinite(log_p), log_p, 0) + np.array(LOG_Z)[:, None]


def expected(world, log_p):
    """What an exact sampler's figures come to on average, and how far a single sample's are from it."""
    strings = world.strings()
    words = [("".join(ITEMS[token] for token in string) + ".").split("Ġ")[1:] for string in strings]
    everything = world.all_continuations()
    frozen_NxT = log_likelihood(world.frozen_model(), world.prompts, everything, world.rules.terminator)
    frozen = np.asarray(frozen_NxT)[np.arange(len(frozen_NxT)), everything.length_N].reshape(log_p.shape)
    for prompt, own in enumerate(log_p):
        p = np.exp(own)
        values = {
            "log_likelihood": frozen[prompt],
            "log_r": np.where(p > 0, own, 0) + LOG_Z[prompt],
            "length": np.array([len(string) for string in strings]),
        }
        means = {name: (p * each).sum() for name, each in values.items()}
        spreads = {name: np.sqrt((p * (each - means[name]) ** 2).sum()) for name, each in values.items()}
        distance = np.array([[Levenshtein.normalized_distance(one, other) for other in words] for one in words])
        of_each = distance @ p
        means["diversity"] = p @ of_each
        spreads["diversity"] = 2 * np.sqrt(p @ (of_each - means["diversity"]) ** 2)  # of a U-statistic of order two
        means["distinct"], spreads["distinct"] = (1 - (1 - p) ** SAMPLES).sum() / SAMPLES, 0.1
        yield means, spreads


def test_an_exact_sampler_reads_zero(compared):
    exact, frozen = compared["GFlowNet"].per_prompt, compared["sampling"].per_prompt
    np.testing.assert_allclose(exact["own_log_ratio_var"], 0, atol=1e-9)
    np.testing.assert_allclose(exact["elbo"], LOG_Z, atol=1e-5)
    assert (frozen["own_log_ratio_var"] > 0.05).all()
    assert (frozen["elbo"] < np.array(LOG_Z) - 0.02).all()


@pytest.mark.parametrize("name", ["GFlowNet", "reference"])
def test_an_exact_sampler_and_the_reference_match_the_target_in_every_column(world, log_p, compared, name):
    for prompt, (means, spreads) in enumerate(expected(world, log_p)):
        for figure in FIGURES:
            tolerance = 4 * spreads[figure] / np.sqrt(SAMPLES)
            assert compared[name].per_prompt[figure][prompt] == pytest.approx(means[figure], abs=tolerance), figure


def test_the_reference_knows_log_z(compared):
    np.testing.assert_allclose(compared["reference"].per_prompt["log_z"], LOG_Z, atol=0.1)


def test_what_has_no_finite_reward_stands_for_nothing_in_the_reference(world, log_p, experiment):
    lost = int(np.nanargmax(np.where(np.isfinite(log_p), log_p, np.nan).min(0)))
    table = reward_table(log_p)
    table[0, lost], table[1, lost] = np.nan, -np.inf
    reward = OfExamples(world, table)
    references = References(dataclasses.replace(experiment, reward=reward), PROMPTS, 4_096).of([0, 1])
    text = "".join(ITEMS[token] for token in world.strings()[lost]).replace("Ġ", " ") + "."
    for prompt, reference in enumerate(references):
        assert text in reference.texts
        assert text not in {reference.texts[index] for index in reference.draw(500, np.random.default_rng(0))}
        log_z = LOG_Z[prompt] + np.log1p(-np.exp(log_p[prompt, lost]))
        assert reference.log_z == pytest.approx(log_z, abs=0.1)
