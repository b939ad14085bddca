"""Figures of texts by models in worker processes: how far apart they lie, and how many are sentences."""

import contextlib
import importlib.util
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gfn_jax.config.schema import Reward
from gfn_jax.evaluation.comparison import TextFigures, Written
from gfn_jax.rewards.contradiction import NLI_MODEL
from gfn_jax.rewards.judging import CLASSIFIER, Judgements, JudgePool
from gfn_jax.rewards.side_process import WorkerPool
from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks import Task
from gfn_jax.tasks.contradiction import Contradiction

EMBEDDER = "gfn_jax.evaluation.embedder:Embedder"

_REMEMBERED_MB = 256.0  # of texts, which several methods may come to
_KEYS = ("--sentence_model", "--sentence_label")


class Judges(NamedTuple):
    """Models that an evaluation asks about its texts, by hub name or directory; where empty the run's own, if any."""

    embedding_model: str
    sentence_model: str
    sentence_label: str
    second_judge: str


RUNS_OWN = Judges("", "", "", "")


class EmbeddingDistance:
    """The mean cosine distance between a prompt's texts by their embeddings (Hu et al. 2024): 0 where all are equal."""

    def __init__(self, pool: WorkerPool, batch_size: int):
        self._embeddings = Judgements[str](pool, "embed", batch_size, _REMEMBERED_MB)

    def __call__(self, written: Written) -> dict[str, np.ndarray]:
        embeddings = _by_prompt(self._embeddings, written.texts)
        return {"embedding_distance": np.array([_mean_distance(np.stack(own)) for own in embeddings])}


class AcceptableShare:
    """The share of a prompt's texts that a classifier takes for sentences, rather than not."""

    def __init__(self, pool: WorkerPool, batch_size: int):
        self._log_p = Judgements[str](pool, "log_probabilities", batch_size, _REMEMBERED_MB)

    def __call__(self, written: Written) -> dict[str, np.ndarray]:
        log_p = _by_prompt(self._log_p, written.texts)
        return {"acceptable": np.array([np.mean(np.array(own) > math.log(0.5)) for own in log_p])}


class SecondJudge:
    """What another NLI model says of the same answers: how much of the reward's is its own judge's whim.

    Its `contradiction_rate` and `discriminates` are those of `tasks/contradiction.py`.
    """

    def __init__(self, pool: WorkerPool, batch_size: int):
        self._judgements = Judgements[tuple[str, str]](pool, "log_contradiction", batch_size, _REMEMBERED_MB)

    def __call__(self, written: Written) -> dict[str, np.ndarray]:
        answers = [[remark["answer"] for remark in own] for own in written.remarks()]
        edited = self._contradicts([example.edit_fact for example in written.examples], answers)
        original = self._contradicts([example.original_fact for example in written.examples], answers)
        return {
            "second_judge_contradiction_rate": np.array([each.mean() for each in edited]),
            "second_judge_discriminates": np.array(
                [(of_edited & ~of_original).mean() for of_edited, of_original in zip(edited, original, strict=True)]
            ),
        }

    def check(self) -> None:
        self._judgements.request([("A judge reads a fact.", "It says why it cannot before anything is measured.")])()

    def _contradicts(self, facts: Sequence[str], answers: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Which answers contradict the fact of their example; none does where that is empty."""
        pairs = [(fact, answer) for fact, own in zip(facts, answers, strict=True) for answer in own if fact]
        judged = iter(self._judgements.request(pairs)())
        return [
            np.array([bool(fact) and next(judged)[0] > math.log(0.5) for _ in own])
            for fact, own in zip(facts, answers, strict=True)
        ]


@contextlib.contextmanager
def judged_figures(judges: Judges, settings: Reward, task: Task) -> Iterator[list[TextFigures]]:
    """The figures whose models are named, with the workers of `reward.sentences`, or of `reward.nli`.

    Ends the workers afterwards. Raises `UserError` where a model cannot be had, a label is named and no model, or a
    second judge and no question.
    """
    sentences = settings.sentences
    if judges.sentence_label and not (judges.sentence_model or sentences.name_or_path):
        raise UserError("--sentence_label is of a classifier: name it with --sentence_model")
    sentences = sentences.model_copy(
        update={
            "name_or_path": judges.sentence_model or sentences.name_or_path,
            "label": judges.sentence_label or sentences.label,
        }
    )
    figures: list[TextFigures] = []
    with contextlib.ExitStack() as workers:
        if judges.embedding_model:
            if importlib.util.find_spec("sentence_transformers") is None:
                raise UserError("--embedding_model needs sentence-transformers: pip install gfn-jax[eval]")
            embedder = sentences.model_copy(update={"name_or_path": judges.embedding_model})
            pool = JudgePool(EMBEDDER, embedder, "--embedding_model")
            workers.callback(pool.close)
            figures.append(EmbeddingDistance(pool, sentences.batch_size))
        if sentences.name_or_path:
            pool = JudgePool(CLASSIFIER, sentences, _KEYS[0], label=sentences.label, keys=_KEYS)
            workers.callback(pool.close)
            figures.append(AcceptableShare(pool, sentences.batch_size))
        for figure in figures:
            figure(
                Written([], [["A model that cannot judge this sentence says why before anything is measured."]], list)
            )
        if judges.second_judge:
            if not isinstance(task, Contradiction):
                raise UserError("--second_judge is of answers to questions, and the run's task has none")
            nli = settings.nli.model_copy(update={"name_or_path": judges.second_judge})
            pool = JudgePool(NLI_MODEL, nli, "--second_judge", contradiction_label=-1)
            workers.callback(pool.close)
            second = SecondJudge(pool, nli.batch_size)
            second.check()
            figures.append(second)
        yield figures


def _by_prompt(judgements: Judgements[str], texts: Sequence[Sequence[str]]) -> list[list]:
    """What is said of each prompt's texts, without white space around them."""
    said = iter(judgements.request([text.strip() for own in texts for text in own])())
    return [[next(said) for _ in own] for own in texts]


def _mean_distance(embeddings: np.ndarray) -> float:
    """The mean of 1 - cos over all pairs, which of vectors of norm 1 is half of their squared distance; 0 of one."""
    from scipy.spatial.distance import pdist  # slow to import, and wanted by few

    return float(pdist(embeddings, "sqeuclidean").mean()) / 2 if len(embeddings) > 1 else 0.0
