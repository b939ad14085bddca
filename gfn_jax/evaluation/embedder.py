"""Embeddings of sentences. PyTorch, and so only ever in a worker."""

from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers.utils.logging import disable_progress_bar

from gfn_jax.rewards.fixed_batches import fixed_batches
from gfn_jax.runtime.errors import UserError


class Embedder:
    """A model of sentence-transformers, from a hub name or a local directory.

    Every batch has `batch_size` rows of one length (a power of two, or `max_length`), so that a text's embedding
    depends neither on its batch-mates nor on its place among them.
    """

    def __init__(
        self, name_or_path: str, *, device: str, dtype: str = "float32", batch_size: int, max_length: int, threads: int
    ):
        """Raises `UserError` where the model cannot be loaded, or is no transformer."""
        torch.set_num_threads(threads)
        disable_progress_bar()  # the terminal is the main process's
        try:
            self._model = SentenceTransformer(name_or_path, device=device, model_kwargs={"dtype": dtype})
        except Exception as error:  # the libraries raise whatever comes to their minds
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"--embedding_model: {name_or_path!r} cannot be loaded on {device!r}: {reason:.200}"
            ) from error
        if not isinstance(self._model[0], Transformer):
            raise UserError(f"--embedding_model: {name_or_path!r} is no transformer, and only these are read")
        self._model.default_prompt_name = None  # texts are compared as they are
        self._batch_size = batch_size
        self._max_length = min(max_length, self._model.max_seq_length or max_length)

    def embed(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Embeddings of norm 1, in float32; a text that is too long is cut at its end."""
        encoded = self._model.tokenizer(list(texts), truncation=True, max_length=self._max_length)
        embeddings: list[np.ndarray] = [np.empty(0)] * len(texts)
        for batch in fixed_batches(list(map(len, encoded["input_ids"])), self._batch_size, self._max_length):
            found = self._model.encode(
                [texts[index] for index in batch.filled],
                batch_size=self._batch_size,
                show_progress_bar=False,
                normalize_embeddings=True,
                processing_kwargs={"text": {"padding": "max_length", "max_length": batch.length}},
            )
            for index, embedding in zip(batch.real, np.asarray(found, np.float32), strict=False):
                embeddings[index] = embedding
        return embeddings
