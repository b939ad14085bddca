"""How sure a text classifier is of one of its labels. PyTorch, and so only ever in a worker."""

from collections.abc import Sequence

import torch
import transformers.modeling_utils  # noqa: F401  all models import it, and it takes a second: forked workers share it
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from gfn_jax.rewards.fixed_batches import fixed_batches
from gfn_jax.runtime.errors import UserError


class Classifier:
    """One label of any `AutoModelForSequenceClassification`, from a hub name or a local directory.

    Where labels exclude each other its probability is a softmax's; of a model with a single label, or whose
    `problem_type` is multi_label_classification, it is the sigmoid of the label's own logit.

    Every batch has `batch_size` rows of one length (a power of two, or `max_length`), so that a
    text's score depends neither on its batch-mates nor on its place among them.
    """

    def __init__(
        self,
        name_or_path: str,
        label: int | str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        batch_size: int = 32,
        max_length: int = 128,
        threads: int = 1,
        keys: tuple[str, str] = ("the classifier", "the label"),
    ):
        """`label` is an index, a name, or a part of the name of one label alone, whatever its case.

        Raises `UserError` where the model cannot be loaded, is no classifier, or has no such label; `keys` are what
        the user calls model and label.
        """
        torch.set_num_threads(threads)
        disable_progress_bar()  # the terminal is the main process's
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(
                name_or_path, dtype=getattr(torch, dtype), trust_remote_code=False
            )
            self._model = model.to(device).eval()
        except Exception as error:  # the libraries raise whatever comes to their minds
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{keys[0]}: {name_or_path!r} cannot be loaded on {device!r}: {reason:.200}") from error
        if model.config.problem_type == "regression":
            raise UserError(f"{keys[0]}: {name_or_path!r} gives a number, not the probability of a label")
        if self._tokenizer.pad_token is None:
            raise UserError(f"{keys[0]}: the tokenizer of {name_or_path!r} has no pad token, which batches need")
        self._is_of_its_own = model.config.num_labels == 1 or model.config.problem_type == "multi_label_classification"
        self._device, self._batch_size = device, batch_size
        most = min(getattr(model.config, "max_position_embeddings", max_length), self._tokenizer.model_max_length)
        self._max_length = min(max_length, most)
        self._label = find_label(model.config.id2label, label, name_or_path, keys[1])

    def log_probabilities(self, texts: Sequence[str]) -> list[float]:
        """log P(label) of texts, in float32; what is too long is cut at its end."""
        together = self._tokenizer(list(texts), truncation=True, max_length=self._max_length)
        return [log_p for log_p, _ in self._score(together, len(texts))]

    def log_probabilities_of_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, float]]:
        """log P(label) and log P(not label) of pairs of texts, in float32.

        A second text that is too long is cut at its end.
        """
        if not pairs:
            return []
        first, second = map(list, zip(*pairs, strict=True))
        # As lists: on its own, an empty second text would be taken for none.
        return self._score(
            self._tokenizer(first, second, truncation="only_second", max_length=self._max_length), len(pairs)
        )

    @torch.inference_mode()
    def _score(self, together, count: int) -> list[tuple[float, float]]:
        """log P(label), and log P(not label) from the other logits: where P is nearly 1, 1 - P has no digits left."""
        encoded = [{name: rows[index] for name, rows in together.items()} for index in range(count)]
        lengths = [len(row["input_ids"]) for row in encoded]
        scores = [(0.0, 0.0)] * count
        for batch in fixed_batches(lengths, self._batch_size, self._max_length):
            rows = [encoded[index] for index in batch.filled]
            inputs = self._tokenizer.pad(rows, padding="max_length", max_length=batch.length, return_tensors="pt")
            logits = self._model(**inputs.to(self._device)).logits.float()
            if self._is_of_its_own:
                of_label = logits[:, self._label]
                log_p, log_not_p = logsigmoid(of_label), logsigmoid(-of_label)
            else:
                of_labels = torch.log_softmax(logits, dim=-1)
                others = [label for label in range(logits.shape[1]) if label != self._label]
                log_p, log_not_p = of_labels[:, self._label], torch.logsumexp(of_labels[:, others], dim=-1)
            for index, *values in zip(batch.real, log_p.tolist(), log_not_p.tolist(), strict=False):
                scores[index] = tuple(values)
        return scores


def find_label(id2label: dict[int, str], chosen: int | str, name: str, key: str) -> int:
    """The index of the `chosen` label; raises `UserError` where none, or more than one, is it."""
    wanted = str(chosen).lower()
    exact = [index for index, label in id2label.items() if label.lower() == wanted]
    if len(exact) == 1:
        return exact[0]
    if wanted.isdecimal():  # an index, which a command line gives as text
        if int(wanted) not in id2label:
            raise UserError(f"{key} is {chosen}, but {name} has the labels {id2label}")
        return int(wanted)
    found = [index for index, label in id2label.items() if wanted in label.lower()]
    if len(found) != 1:
        raise UserError(f"the labels of {name} do not say which is {chosen!r}: {id2label}. Set {key} to its index")
    return found[0]
