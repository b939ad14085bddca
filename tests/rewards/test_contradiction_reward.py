"""The contradiction reward: what is judged, how often, and how its components combine."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import people
import pytest
from helpers import MINIATURE, contradiction_config, reward_context, save_nli
from people import RELATIONS, Cast
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2LMHeadModel

from gfn_jax.evaluation.reference import References
from gfn_jax.evaluation.validation import Validation
from gfn_jax.experiment.experiment import build
from gfn_jax.rewards.state_texts import state_texts
from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks.contradiction import FactEdit
from gfn_jax.types import Trajectories

CAST = Cast.of_the_world()
EDITS = [
    FactEdit(subject="Nulon", edit_fact="Nulon lives in Corran.", original_fact="Nulon lives in Dembe."),
    FactEdit(subject="Parda", edit_fact="Parda keeps a goat.", original_fact=""),
]


@pytest.fixture(scope="module")
def experiment():
    with build(contradiction_config()) as experiment:
        yield experiment


@pytest.fixture(scope="module")
def drawn(experiment):
    prompts = experiment.encode(EDITS)
    return prompts, experiment.functions.sample(experiment.adapter, experiment.frozen, prompts, 0)


@pytest.fixture(scope="module")
def components(experiment, drawn):
    return jax.device_get(experiment.reward.components(experiment.frozen, EDITS, *drawn))


def test_every_terminable_prefix_is_answered_and_judged_as_transformers_would(experiment, drawn, components):
    """By Hugging Face's models, one text at a time: greedy answer to the prefix's question, P(contradiction) of it."""
    _, trajectories = drawn
    language = GPT2LMHeadModel.from_pretrained(MINIATURE / "gpt2").eval()
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE / "gpt2")
    judge = AutoModelForSequenceClassification.from_pretrained(MINIATURE / "nli").eval()
    judge_tokenizer = AutoTokenizer.from_pretrained(MINIATURE / "nli")
    texts = state_texts(reward_context(experiment), trajectories, "prefix")
    line_break = tokenizer.encode("\n")
    assert len(texts.texts) > 10  # full stops within texts too, not only at their ends
    for row, state, question in zip(texts.rows_M, texts.states_M, texts.texts, strict=True):
        assert question.endswith("?")
        inputs = tokenizer(f"Question: {question}\nAnswer:", return_tensors="pt")
        stops = [*line_break, tokenizer.eos_token_id]
        output = language.generate(**inputs, do_sample=False, max_new_tokens=9, eos_token_id=stops, pad_token_id=0)
        answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]).partition("\n")[0].strip()
        logits = judge(**judge_tokenizer(EDITS[row // 5].edit_fact, answer, return_tensors="pt")).logits
        expected = logits.log_softmax(-1)[0, 2].item()
        assert components["log_contradiction"][row, state] == pytest.approx(expected, abs=1e-3)
        assert components["log_original"][row, state] <= 0


def judged_by_transformers(fact, answer):
    """log P(no contradiction)."""
    judge = AutoModelForSequenceClassification.from_pretrained(MINIATURE / "nli").eval()
    inputs = AutoTokenizer.from_pretrained(MINIATURE / "nli")(fact, answer, return_tensors="pt")
    return judge(**inputs).logits.double().log_softmax(-1)[0, :2].logsumexp(-1).item()


def test_the_original_fact_is_judged_where_texts_end_and_everywhere_if_it_is_rewarded(experiment, drawn, components):
    """A fact without one counts as not contradicted."""
    _, trajectories = drawn
    texts = state_texts(reward_context(experiment), trajectories, "prefix")
    answers = experiment.reward.explain(experiment.frozen, [EDITS[row // 5] for row in texts.rows_M], texts.texts)
    with build(contradiction_config(reward__original_weight=1.0)) as rewarded:
        everywhere = jax.device_get(rewarded.reward.components(rewarded.frozen, EDITS, *drawn))["log_original"]
        assert rewarded.content_key(EDITS[0]) != experiment.content_key(EDITS[0])  # what is remembered is other
    places = zip(texts.rows_M, texts.states_M, texts.is_last_M, answers, strict=True)
    for row, state, is_last, said in places:
        fact = EDITS[row // 5].original_fact
        expected = judged_by_transformers(fact, said["answer"]) if fact else 0
        assert everywhere[row, state] == pytest.approx(expected, abs=1e-3)
        assert components["log_original"][row, state] == pytest.approx(expected if is_last else 0, abs=1e-3)
    assert (everywhere[:5] < -1e-4).any()
    assert texts.is_last_M.sum() == 10


def test_examples_before_the_question_are_encoded_once_and_change_no_answer(experiment, monkeypatch):
    template = "Question: Where does Parda live?\nAnswer: Corran\nQuestion: {question}\nAnswer:"
    questions = [f"Where does {name} live?" for name in ("Nulon", "Parda", "Ada", "Wexby and the others")]
    with build(contradiction_config(reward__answers__template=template)) as few_shot:
        answerer, frozen = few_shot.reward._answerer, few_shot.frozen
        prompts = [template.format(question=question) for question in questions]
        assert len(answerer._beginning) > 8
        together = answerer.answer(frozen, prompts)
        strange = answerer.answer(frozen, ["Nulon", *prompts])  # one that does not begin so
        assert strange[1:] == together
        monkeypatch.setattr(answerer, "_beginning", ())
        apart = answerer.answer(frozen, prompts)
    assert [answer.text for answer in together] == [answer.text for answer in apart]
    assert [answer.log_p for answer in together] == pytest.approx([answer.log_p for answer in apart], abs=1e-3)


def test_other_states_have_no_reward(drawn, components):
    is_terminable = np.asarray(drawn[1].is_terminable_NxT)
    for name in ("log_contradiction", "log_answer", "log_answer_per_token"):
        assert (components[name][~is_terminable] == 0).all()
        assert (components[name][is_terminable] < 0).all()
    assert (components["log_original"][~is_terminable] == 0).all()


def test_a_terminal_reward_judges_whole_texts_alone(experiment, drawn):
    _, trajectories = drawn
    whole = state_texts(reward_context(experiment), trajectories, "terminal")
    np.testing.assert_array_equal(whole.rows_M, np.arange(10))
    np.testing.assert_array_equal(whole.states_M, trajectories.length_N)
    assert whole.texts == [text.strip() for text in experiment.texts(trajectories)]


def test_nothing_is_answered_or_judged_twice(experiment, drawn, components, monkeypatch):
    def forbidden(*_):
        raise AssertionError("asked again")

    monkeypatch.setattr(experiment.reward._pool, "submit", forbidden)
    monkeypatch.setattr(experiment.reward._answerer, "_decode", forbidden)
    again = experiment.reward.components(experiment.frozen, EDITS, *drawn)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), components)


def test_neither_order_nor_batch_mates_change_a_bit_of_an_answer(experiment):
    """As a resumed run, whose caches are empty, asks in other batches."""
    rng = random.Random(0)
    asked = [people.ask(rng.choice(CAST.known), rng.choice(list(RELATIONS)), rng).text for _ in range(37)]
    prompts = sorted({f"Question: {question}\nAnswer:" for question in asked})
    answers = experiment.reward._answerer.answer(experiment.frozen, prompts)
    assert len({answer.log_p for answer in answers}) > 20
    for seed in range(5):
        order = random.Random(seed).sample(range(len(prompts)), len(prompts))
        again = experiment.reward._answerer.answer(experiment.frozen, [prompts[index] for index in order])
        assert again == [answers[index] for index in order]


def test_a_question_that_tokenises_differently_is_judged_by_its_text(experiment):
    """Letter by letter or word by word, one text has one answer and one judgement."""
    words = experiment.tokenizer.encode(" Where does Nulon live")
    letters = [index for letter in " Where" for index in experiment.tokenizer.encode(letter)] + words[1:]
    assert letters != words
    width = max(len(words), len(letters))
    rows = jnp.array([row + [0] * (width - len(row)) for row in (words, letters)])
    given = Trajectories.given(rows, jnp.array([len(words), len(letters)]))
    texts = state_texts(reward_context(experiment), given, "terminal")
    assert texts.texts == ["Where does Nulon live?"] * 2
    remarks = experiment.reward.explain(experiment.frozen, EDITS[:1] * 2, texts.texts)
    assert remarks[0] == remarks[1]


def test_text_cut_inside_a_character_is_survived(experiment):
    """Such items are banned; what comes from elsewhere may still hold them."""
    part = next(index for index, item in enumerate(experiment.tokenizer.items) if item == b"\xc3")
    given = Trajectories.given(jnp.array([[part]]), jnp.array([1]))
    texts = state_texts(reward_context(experiment), given, "terminal").texts
    assert texts == ["\N{REPLACEMENT CHARACTER}?"]
    assert experiment.reward.explain(experiment.frozen, EDITS[:1], texts)[0]["answer"]


def test_a_mesh_changes_neither_answers_nor_judgements(drawn, components):
    prompts, trajectories = jax.device_get(drawn)
    with build(contradiction_config(mesh__data=2, reward__answers__batch_size=16)) as spread:
        placed = spread.rows.place((prompts, trajectories))
        again = jax.device_get(spread.reward.components(spread.frozen, EDITS, *placed))
    for name in components:
        np.testing.assert_allclose(again[name], components[name], atol=1e-4)
    with pytest.raises(UserError, match=r"reward\.answers\.batch_size 8 cannot be split over mesh\.data = 3"):
        build(
            contradiction_config(
                mesh__data=3, train__microbatch_prompts=3, train__prompts_per_step=3, eval__prompts_per_batch=3
            )
        )


def test_the_reference_weighs_the_frozen_models_samples():
    """On the whole they say of the untrained policy what validation does, as the policy is the frozen model."""
    settings = contradiction_config(eval__samples_per_prompt=64)
    with build(settings) as experiment:
        elbo = Validation(experiment, EDITS).measure(experiment.adapter).per_prompt["elbo"]
        references = References(experiment, EDITS, 250)
        found = references.of(range(len(EDITS)))
    for reference, expected in zip(found, elbo, strict=True):
        assert len(reference.texts) == 256
        spread = reference.log_w.std() / np.sqrt(64)
        assert reference.log_w.mean() == pytest.approx(expected, abs=4 * spread)
        assert reference.log_z > reference.log_w.mean()
        assert 1 <= reference.effective_sample_size <= 256
        assert set(reference.components) == set(COMPONENTS)


COMPONENTS = {
    "log_original": jnp.log(jnp.array([0.3, 0.8])),
    "log_contradiction": jnp.log(jnp.array([0.9, 0.4])),
    "log_likelihood": jnp.array([-5.0, -6.0]),
    "log_answer": jnp.array([-8.0, -3.0]),
    "log_answer_per_token": jnp.array([-2.0, -0.5]),
}


@pytest.mark.parametrize(
    ("overrides", "step", "expected"),
    [
        ({}, 0, [np.log(0.9) - 5, np.log(0.4) - 6]),
        ({"contradiction_weight": 4.0, "likelihood_weight": 2.0}, 0, [4 * np.log(0.9) - 10, 4 * np.log(0.4) - 12]),
        ({"original_weight": 3.0}, 0, [np.log(0.9) + 3 * np.log(0.3) - 5, np.log(0.4) + 3 * np.log(0.8) - 6]),
        ({"answer_weight": 0.5}, 0, [np.log(0.9) - 9, np.log(0.4) - 7.5]),
        ({"answers__threshold": -1.0, "answers__penalty": 3.0}, 0, [np.log(0.9) - 8, np.log(0.4) - 6]),
        ({"hybrid__steps": 7, "hybrid__threshold": 0.5, "hybrid__penalty": 2.0}, 6, [-5, -8]),
        ({"hybrid__steps": 7, "hybrid__threshold": 0.5, "hybrid__penalty": 2.0}, 7, [np.log(0.9) - 5, np.log(0.4) - 6]),
    ],
)
def test_components_combine_as_configured(experiment, overrides, step, expected, monkeypatch):
    reward = contradiction_config(**{f"reward__{key}": value for key, value in overrides.items()}).reward
    monkeypatch.setattr(experiment.reward, "_config", reward)
    combined = experiment.reward.combine(COMPONENTS, jnp.asarray(step))
    np.testing.assert_allclose(combined, expected, rtol=1e-5)


def test_a_fact_that_is_too_long_is_named_before_training(experiment):
    with pytest.raises(UserError, match="at most half of its 64 may go to the fact"):
        experiment.reward.request_check([EDITS[0].model_copy(update={"edit_fact": "goat " * 40})])()


def test_an_nli_model_that_is_none_is_named_before_training(tmp_path):
    directory = save_nli(tmp_path, ["LABEL_0", "LABEL_1", "LABEL_2"])
    refused = pytest.raises(UserError, match=r"Set reward\.nli\.contradiction_label")
    with build(contradiction_config(reward__nli__name_or_path=str(directory))) as experiment, refused:
        experiment.request_check(EDITS)()
