"""Models in worker processes that judge texts, and are asked about each but once."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from cachetools import LRUCache

from gfn_jax.config import Judge
from gfn_jax.rewards.side_process import Job, WorkerPool

CLASSIFIER = "gfn_jax.rewards.classifier:Classifier"

Item = TypeVar("Item", str, tuple[str, str])


def judge_pool(factory: str, judge: Judge, **more: Any) -> WorkerPool:
    """The workers that a judge's configuration asks for; `more` is what `factory` takes besides."""
    settings = {
        "name_or_path": judge.name_or_path,
        "device": judge.device,
        "batch_size": judge.batch_size,
        "max_length": judge.max_length,
        "threads": judge.threads,
    }
    limits = {"workers": judge.workers, "timeout_s": judge.timeout_s, "attempts": judge.attempts}
    return WorkerPool(factory, settings | more, **limits)


class Judgements(Generic[Item]):
    """What a method of the workers' says of texts, or of pairs; none is asked about twice while the cache lasts."""

    def __init__(self, pool: WorkerPool, method: str, batch_size: int, cache_size: int):
        self._pool, self._method, self._batch_size = pool, method, batch_size
        self._jobs: LRUCache[Item, tuple[Job, int]] = LRUCache(cache_size)

    def request(self, items: Sequence[Item]) -> Callable[[], list[Any]]:
        """Sends what was not sent before to the workers; calling the result waits for what they say of all items."""
        fresh = {item for item in items if item not in self._jobs}
        # Neighbours in length share a batch, which the longest of them pads.
        ordered = sorted(fresh, key=lambda item: (sum(map(len, item)), item))
        jobs = {item: self._jobs[item] for item in items if item not in fresh}
        for first in range(0, len(ordered), self._batch_size):
            batch = ordered[first : first + self._batch_size]
            job = self._pool.submit(self._method, batch)
            jobs.update((item, (job, place)) for place, item in enumerate(batch))
        self._jobs.update(jobs)
        return lambda: [job.result()[place] for job, place in map(jobs.__getitem__, items)]
