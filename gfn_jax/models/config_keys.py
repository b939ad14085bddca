"""Reading a `config.json` so that no key which changes the result is overlooked."""

from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from gfn_jax.runtime.errors import UserError

T = TypeVar("T")

IGNORED = frozenset(
    {  # what a computation without dropout, on given tokens, does not depend on
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_name_or_path",
        "_num_labels",
        "architectures",
        "attention_dropout",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "is_decoder",
        "keys_to_ignore_at_inference",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "pad_token_id",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "typical_p",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
    }
)
_OFF = {  # what any model may have, and what it must be where it is there
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "tie_encoder_decoder": (False,),
}
_MISSING = object()
_LARGEST_SIZE = 2**24  # longer contexts and larger vocabularies than any
_MOST_LAYERS = 10_000


class ConfigKeys:
    """The keys of one `config.json`, or of a part of it: each is taken, off, ignored by name, or an error."""

    def __init__(self, raw: Mapping[str, Any], where: str, prefix: str = ""):
        self._raw, self._where, self._prefix = raw, where, prefix
        self._left = set(raw)
        self._inner: list[ConfigKeys] = []

    def take(self, name: str, default: Any = _MISSING) -> Any:
        """The key's value; raises `UserError` where it is not there and has no default."""
        self._left.discard(name)
        if name in self._raw:
            return self._raw[name]
        if default is _MISSING:
            raise UserError(f"{self._where}: the key {self._prefix}{name} is missing")
        return default

    def take_object(self, name: str) -> Mapping[str, Any]:
        """A part of the file, empty where there is none; raises `UserError` where it is no JSON object."""
        value = self.take(name, None)
        if value is not None and not isinstance(value, Mapping):
            self.refuse(name, value, "must be an object")
        return value or {}

    def off(self, name: str, *values: Any) -> None:
        """A setting that must be at one of these values, or not be there."""
        value = self.take(name, values[0])
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values):
            self.refuse(name, value, f"only {' or '.join(repr(each) for each in values)} is computed here")

    def ignore(self, *names: str) -> None:
        """Settings that change no result in this architecture."""
        self._left.difference_update(names)

    def inner(self, name: str, raw: Mapping[str, Any]) -> "ConfigKeys":
        """The keys of a part, which are checked with these."""
        part = ConfigKeys(raw, self._where, f"{self._prefix}{name}.")
        self._inner.append(part)
        return part

    def refuse(self, name: str, value: Any, why: str) -> NoReturn:
        raise UserError(f"{self._where}: {self._prefix}{name} is {value!r}, and {why}")

    def validated(self, made: type[T], **fields: Any) -> T:
        """The dataclass of these fields; raises `UserError` where one is of a wrong type, or a size below 1."""
        try:
            return TypeAdapter(made).validate_python(fields)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(
                f"{self._where}: {self._prefix}{first['loc'][0]}: {first['msg']} (it is {first['input']!r})"
            ) from error

    def check_sizes(self, **sizes: Any) -> None:
        """Raises `UserError` where one is no whole number, below 1, or larger than any model's."""
        for name, size in sizes.items():
            if type(size) is not int:  # true is one of its kind
                self.refuse(name, size, "a valid integer is needed")
        if wrong := [f"{name} is {size}" for name, size in sizes.items() if size < 1]:
            raise UserError(f"{self._where}: {' and '.join(wrong)}: at least 1 is needed")
        if wrong := [f"{name} is {size}" for name, size in sizes.items() if size > _LARGEST_SIZE]:
            raise UserError(f"{self._where}: {' and '.join(wrong)}: {_LARGEST_SIZE} is the most")

    def check_depth(self, name: str, depth: int) -> None:
        """Raises `UserError` where so many layers are no model's."""
        if depth > _MOST_LAYERS:
            self.refuse(name, depth, f"{_MOST_LAYERS} are the most")

    def check_divides(self, what: str, size: int, by: str, parts: int) -> None:
        """Raises `UserError` where a size is not a multiple of another."""
        if size % parts:
            raise UserError(f"{self._where}: {what} {size} is not divisible by {by} {parts}")

    def check_all_taken(self) -> None:
        """Raises `UserError`, listing them, where there are keys that nobody has read."""
        unknown = sorted(self._unknown())
        if unknown:
            raise UserError(
                f"{self._where} has keys that are not known here and may change the result: {', '.join(unknown)}"
            )

    def _unknown(self) -> list[str]:
        unknown = []
        for name in sorted(self._left):
            if name in _OFF:
                self.off(name, *_OFF[name])
            elif name not in IGNORED:
                unknown.append(f"{self._prefix}{name}")
        return unknown + [name for part in self._inner for name in part._unknown()]
