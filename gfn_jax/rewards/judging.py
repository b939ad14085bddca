"""Models in worker processes that judge texts, and are asked about each but once."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from gfn_jax.config.schema import Judge, Reward
from gfn_jax.models.hf_files import classifier_sha256, find_classifier
from gfn_jax.rewards import side_process
from gfn_jax.rewards.recent import Recent
from gfn_jax.rewards.side_process import WorkerPool

CLASSIFIER = "gfn_jax.rewards.classifier:Classifier"


def import_ahead(settings: Reward) -> None:
    """Begins to import what the judges of a reward stand on, if any; before jax, which takes as long."""
    if any(judge.name_or_path and judge.device == "cpu" for judge in (settings.nli, settings.sentences)):
        side_process.import_ahead()


class Answer(Protocol):
    def result(self) -> Any:
        """What was said, in the order of what was asked; waits for it."""


class Asked(Protocol):
    """Whoever says something of texts: a `WorkerPool`, for one."""

    def submit(self, method: str, argument: Any) -> Answer: ...


Item = TypeVar("Item", str, tuple[str, str])


class JudgePool(WorkerPool):
    """The workers that a judge's configuration asks for; its files are found when they are first needed.

    key   what the user calls the judge's name, for the `UserError` where there is none
    more  what `factory` takes besides
    """

    def __init__(self, factory: str, judge: Judge, key: str, **more: Any):
        limits = {"workers": judge.workers, "timeout_s": judge.timeout_s, "attempts": judge.attempts}
        super().__init__(factory, more, **limits, is_forked=judge.device == "cpu")
        self._judge, self._key = judge, key

    @functools.cached_property
    def sha256(self) -> str:
        """Of the judge's files, its tokenizer's among them."""
        return classifier_sha256(self._directory)

    @functools.cached_property
    def _directory(self) -> Path:
        return find_classifier(self._judge.name_or_path, self._key)

    def settings(self) -> Mapping[str, Any]:
        judge = self._judge
        return {
            **super().settings(),
            "name_or_path": str(self._directory),
            "device": judge.device,
            "dtype": judge.dtype,
            "batch_size": judge.batch_size,
            "max_length": judge.max_length,
            "threads": judge.threads,
        }


class Judgements(Generic[Item]):
    """What a method of the workers' says of texts, or of pairs; none is asked about twice while the cache lasts."""

    def __init__(self, pool: Asked, method: str, batch_size: int, cache_mb: float):
        self._pool, self._method, self._batch_size = pool, method, batch_size
        self._known: Recent[Item, Any] = Recent(cache_mb)
        self._under_way: dict[Item, tuple[Answer, int]] = {}

    def request(self, items: Sequence[Item]) -> Callable[[], list[Any]]:
        """Sends what was not sent before to the workers; calling the result waits for what they say of all items."""
        waiting = {item: sent for item in items if (sent := self._under_way.get(item))}
        known = self._known.find(item for item in items if item not in waiting)
        fresh = {item for item in items if item not in waiting and item not in known}
        # Neighbours in length share a batch, which the longest of them pads.
        ordered = sorted(fresh, key=lambda item: (sum(map(len, item)), item))
        for first in range(0, len(ordered), self._batch_size):
            batch = ordered[first : first + self._batch_size]
            job = self._pool.submit(self._method, batch)
            waiting.update((item, (job, place)) for place, item in enumerate(batch))
        self._under_way.update(waiting)

        def said() -> list[Any]:
            # A job holds its whole batch: once it has said something, that alone is kept.
            of_jobs = {item: job.result()[place] for item, (job, place) in dict(waiting).items()}
            known.update(of_jobs)
            self._known.keep(of_jobs)
            for item in of_jobs:
                self._under_way.pop(item, None)
            waiting.clear()
            return [known[item] for item in items]

        return said
