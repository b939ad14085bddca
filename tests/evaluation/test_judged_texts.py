"""Figures of texts by models: what the models' own libraries say, whatever else is in the batch."""

import importlib.util
import itertools
import random

import numpy as np
import pytest
import torch
from helpers import MINIATURE, config, contradiction_config
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from gfn_jax.config.schema import Config, Reward
from gfn_jax.evaluation.comparison import Written
from gfn_jax.evaluation.embedder import Embedder
from gfn_jax.evaluation.judged_texts import RUNS_OWN, Judges, judged_figures
from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks import Task, make_task
from gfn_jax.tasks.contradiction import FactEdit

WORDS = ["Mara", "lamp", "boat", "the", "night", "cold", "rain", "dog", "bought", "went", "home", "of", "dark"]
GLOOMY = Judges("", str(MINIATURE / "mood"), "gloomy", "")
OTHERS = {"data__path": "-", "model__name_or_path": "-"}


def of_run(settings: Config) -> tuple[Reward, Task]:
    """What the figures of a run's texts are made from."""
    return settings.reward, make_task(settings)


OF_RUN = of_run(config(**OTHERS, reward__sentences__batch_size=8))


def written(texts):
    """Continuations of next-sentence prompts, on which the reward has nothing to remark."""
    return Written([], texts, list)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The mean of a random BERT's hidden states, as a directory of sentence-transformers."""
    directory = tmp_path_factory.mktemp("embedding")
    torch.manual_seed(0)
    transformer = Transformer(str(MINIATURE / "mood"))
    with torch.no_grad():
        for parameter in transformer.parameters():
            if parameter.ndim > 1:  # norms stay as they are
                parameter.normal_(0, 0.3)
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(directory))
    return str(directory)


@pytest.fixture(scope="module")
def texts():
    """Of all lengths, one of which is more than the model takes."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=count)) + "." for count in [*range(1, 30), 90]]


def embedder(directory, **settings):
    return Embedder(directory, **({"device": "cpu", "batch_size": 8, "max_length": 64, "threads": 1} | settings))


def test_embeddings_are_the_librarys_own_at_norm_1(directory, texts):
    own = SentenceTransformer(directory, device="cpu").encode(texts)
    found = np.stack(embedder(directory).embed(texts))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, own / np.linalg.norm(own, axis=1, keepdims=True), atol=1e-5)


def test_neither_order_nor_batch_mates_change_a_bit(directory, texts):
    model = embedder(directory)
    found = np.stack(model.embed(texts))
    for seed in range(3):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        np.testing.assert_array_equal(model.embed([texts[index] for index in order]), found[order])
    np.testing.assert_array_equal([model.embed([text])[0] for text in texts], found)


def test_a_text_that_is_too_long_is_cut(directory):
    model = embedder(directory, max_length=16)
    np.testing.assert_array_equal(*model.embed(["dog " * 20, "dog " * 40]))


def test_the_distance_is_the_mean_over_pairs_and_0_of_equal_texts(directory):
    drawn = [["The night was cold.", " Mara bought a lamp.", "A dog."], [" A dog."] * 3, ["A dog.", " A dog.", "Mara."]]
    own = SentenceTransformer(directory, device="cpu")
    with judged_figures(Judges(directory, "", "", ""), *OF_RUN) as (distance,):
        found = distance(written(drawn))["embedding_distance"]
    for texts, value in zip(drawn, found, strict=True):
        rows = own.encode([text.strip() for text in texts])
        pairs = itertools.combinations(rows / np.linalg.norm(rows, axis=1, keepdims=True), 2)
        assert value == pytest.approx(np.mean([1 - left @ right for left, right in pairs]), abs=1e-5)
    assert found[1] == 0
    assert found[0] > found[2] > 0.01


def test_acceptable_is_the_share_that_the_classifier_gives_the_label():
    drawn = [
        ["The night was cold.", "Mara bought a lamp."],
        [" He forgot his broken boat.", "It was dark."],
        ["A dog."],
    ]
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE / "mood")
    model = AutoModelForSequenceClassification.from_pretrained(MINIATURE / "mood").eval()

    def is_gloomy(text):
        with torch.no_grad():
            return model(**tokenizer(text.strip(), return_tensors="pt")).logits.softmax(-1)[0, 1].item() > 0.5

    expected = [np.mean([is_gloomy(text) for text in texts]) for texts in drawn]
    assert sorted(expected) == [0, 0.5, 1]
    with judged_figures(GLOOMY, *OF_RUN) as (acceptable,):
        assert acceptable(written(drawn))["acceptable"].tolist() == expected
    own = {"reward__sentences__name_or_path": GLOOMY.sentence_model, "reward__sentences__label": "calm"}
    with judged_figures(RUNS_OWN, *of_run(config(**OTHERS, **own))) as (acceptable,):
        assert acceptable(written(drawn))["acceptable"].tolist() == [1 - share for share in expected]


def test_without_a_model_there_is_no_figure():
    with judged_figures(RUNS_OWN, *OF_RUN) as figures:
        assert figures == []


def test_what_cannot_be_had_is_one_line_that_names_the_flag(directory):
    with pytest.raises(UserError, match=r"--embedding_model: .* cannot be loaded on 'cpu'") as error:
        embedder("no/such-model")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be loaded on 'teapot'"):
        embedder(directory, device="teapot")
    with (
        pytest.raises(UserError, match=r"do not say which is 'toxic': .*Set --sentence_label to its index"),
        judged_figures(GLOOMY._replace(sentence_label="toxic"), *OF_RUN),
    ):
        pass


def test_a_label_without_a_classifier_is_refused():
    with (
        pytest.raises(UserError, match="--sentence_label is of a classifier: name it with --sentence_model"),
        judged_figures(Judges("", "", "gloomy", ""), *OF_RUN),
    ):
        pass


def test_a_missing_package_is_named(monkeypatch, directory):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(UserError, match=r"--embedding_model needs .*pip install gfn-jax\[eval\]"),
        judged_figures(Judges(directory, "", "", ""), *OF_RUN),
    ):
        pass


def test_a_second_judge_says_what_its_model_does_of_the_answers_to_questions():
    """Against the model's own library; nothing contradicts an original fact that is not there."""
    facts = [("Nulon lives in Corran.", "Nulon lives in Dembe."), ("Parda keeps a goat.", "")]
    examples = [FactEdit(subject="Nulon", edit_fact=edited, original_fact=original) for edited, original in facts]
    answers = [["Nulon lives in Dembe.", "Nulon lives in Corran."], ["Parda keeps a drum.", "I do not know."]]
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE / "nli")
    model = AutoModelForSequenceClassification.from_pretrained(MINIATURE / "nli").eval()

    def contradicts(fact, answer):
        with torch.no_grad():
            return model(**tokenizer(fact, answer, return_tensors="pt")).logits.softmax(-1)[0, 2].item() > 0.5

    rates, discriminating = [], []
    for (edited, original), own in zip(facts, answers, strict=True):
        does = [contradicts(edited, answer) for answer in own]
        rates.append(np.mean(does))
        fits = [not (original and contradicts(original, answer)) for answer in own]
        discriminating.append(np.mean([left and right for left, right in zip(does, fits, strict=True)]))
    assert 0 < np.mean(discriminating) < 1
    remarks = [[{"answer": answer} for answer in own] for own in answers]
    second = Judges("", "", "", str(MINIATURE / "nli"))
    with judged_figures(second, *of_run(contradiction_config())) as (figures,):
        found = figures(Written(examples, [["?", "?"]] * 2, lambda: remarks))
    assert found["second_judge_contradiction_rate"].tolist() == rates
    assert found["second_judge_discriminates"].tolist() == discriminating
    refused = pytest.raises(UserError, match="--second_judge is of answers to questions")
    with refused, judged_figures(second, *OF_RUN):
        pass
