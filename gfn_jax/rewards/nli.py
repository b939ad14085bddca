"""How sure an NLI model is that a hypothesis contradicts its premise. PyTorch, and so only ever in a worker."""

from collections.abc import Sequence

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from gfn_jax.errors import UserError

SHORTEST_BUCKET = 16


class NLIModel:
    """Any `AutoModelForSequenceClassification` with a label for contradiction, from a hub name or a local directory.

    Every batch has `batch_size` rows of one length (a power of two, or `max_length`), so that a
    pair's score depends neither on its batch-mates nor on its place among them.
    """

    def __init__(
        self,
        name_or_path: str,
        contradiction_label: int,
        device: str,
        batch_size: int,
        max_length: int,
        threads: int,
    ):
        torch.set_num_threads(threads)
        disable_progress_bar()  # the terminal is the main process's
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name_or_path)
            model = AutoModelForSequenceClassification.from_pretrained(name_or_path, dtype=torch.float32)
            self._model = model.to(device).eval()
        except Exception as error:  # the libraries raise whatever comes to their minds
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"reward.nli: {name_or_path!r} cannot be loaded on {device!r}: {reason:.200}") from error
        self._device, self._batch_size = device, batch_size
        most = min(getattr(model.config, "max_position_embeddings", max_length), self._tokenizer.model_max_length)
        self._max_length = min(max_length, most)
        self._label = find_contradiction(model.config.id2label, contradiction_label, name_or_path)

    def check_premises(self, premises: Sequence[str]) -> None:
        """Raises `UserError`, naming one, where a premise leaves less than half of the length to its hypothesis."""
        for premise in premises:
            tokens = len(self._tokenizer(premise)["input_ids"])
            if tokens > self._max_length // 2:
                raise UserError(
                    f"the fact {premise[:60]!r}... has {tokens} tokens of the NLI model's; at most half of "
                    f"its {self._max_length} may go to the fact (reward.nli.max_length)"
                )

    @torch.inference_mode()
    def log_contradiction(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """log P(contradiction) of (premise, hypothesis) pairs, in float32; a hypothesis that is too long is cut."""
        premises, hypotheses = map(list, zip(*pairs, strict=True))
        # As lists: on its own, an empty hypothesis would be taken for none.
        together = self._tokenizer(premises, hypotheses, truncation="only_second", max_length=self._max_length)
        encoded = [{name: rows[index] for name, rows in together.items()} for index in range(len(pairs))]
        buckets: dict[int, list[int]] = {}
        for index, row in enumerate(encoded):
            buckets.setdefault(self._bucket(len(row["input_ids"])), []).append(index)
        scores = [0.0] * len(pairs)
        for length, members in sorted(buckets.items()):
            for first in range(0, len(members), self._batch_size):
                chosen = members[first : first + self._batch_size]
                filled = [encoded[index] for index in chosen + chosen[-1:] * (self._batch_size - len(chosen))]
                inputs = self._tokenizer.pad(filled, padding="max_length", max_length=length, return_tensors="pt")
                logits = self._model(**inputs.to(self._device)).logits.float()
                log_p = torch.log_softmax(logits, dim=-1)[:, self._label].tolist()
                for index, value in zip(chosen, log_p, strict=False):
                    scores[index] = value
        return scores

    def _bucket(self, length: int) -> int:
        return min(max(SHORTEST_BUCKET, 1 << (length - 1).bit_length()), self._max_length)


def find_contradiction(id2label: dict[int, str], chosen: int, name: str) -> int:
    """The index of the label that says contradiction: the `chosen` one, or with -1 what the model's labels say."""
    if chosen >= 0:
        if chosen not in id2label:
            raise UserError(f"reward.nli.contradiction_label is {chosen}, but {name} has the labels {id2label}")
        return chosen
    found = [index for index, label in id2label.items() if "contradict" in label.lower()]
    if len(found) != 1:
        raise UserError(
            f"the labels of {name} do not say which of them is contradiction: {id2label}. "
            "Set reward.nli.contradiction_label to its index"
        )
    return found[0]
