"""Byte-level and SentencePiece tokenizers, read from a Hugging Face directory without transformers."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers

from gfn_jax.runtime.content import files_sha256, text_sha256
from gfn_jax.runtime.errors import UserError

_SPACE = "▁"  # how SentencePiece writes a space
_BESIDE_SPACES = ("ByteFallback", "Fuse", "Strip")
_BYTE = re.compile("<0x([0-9A-F]{2})>")
_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character, which JSON can spell and no text has
_USUAL_ENDS = ("<|endoftext|>", "</s>")
_MOST_ITEMS = 10_000_000


class Tokenizer:
    """Text to token ids and back. The names of special items, spelled out in a text, are text.

    items        every vocabulary item's real bytes: those of its name for a special one, none for an id without item
    special_ids  the items that are no text
    byte_ids     the items that stand for a byte which no other item of a text has: the byte fallback of SentencePiece
    prefix_ids   what the tokenizer puts before a text
    end_of_text  the item that ends a text, where there is one
    sha256       of the files that were read, and of what is told of the end of a text and put before it

    Raises `UserError` where the directory holds neither `tokenizer.json` nor `vocab.json` with `merges.txt`, or a
    tokenizer of another kind.
    """

    def __init__(self, directory: Path):
        self._backend = _read(directory)
        if (last := max(self._backend.get_vocab().values(), default=0)) > _MOST_ITEMS:
            raise UserError(f"{directory}: its tokenizer has the id {last}, and {_MOST_ITEMS:,} are the most items")
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = True
        end = _named_end(directory)
        if end and self._backend.token_to_id(end) is not None:
            self._backend.add_special_tokens([end])  # beside vocab.json nothing else says that it is
        added = self._backend.get_added_tokens_decoder()
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        specials = {self._backend.id_to_token(index): index for index in self.special_ids}
        self.end_of_text = next((specials[name] for name in (end, *_USUAL_ENDS) if name in specials), None)
        content = json.loads(self._backend.to_str())
        self.items, self.byte_ids = self._spelled(*_kind(content, directory), directory, frozenset(added))
        _check_names(content, directory)
        self.prefix_ids = self._prefix(directory)
        self._adds_space = self._bytes(self.encode("a")) == b" a"
        self.sha256 = text_sha256(f"{files_sha256(_files(directory))} {self.end_of_text} {self.prefix_ids}")

    def save(self, file: Path) -> None:
        """As a `tokenizer.json`, for tokenizers that come in other files."""
        self._backend.save(str(file))

    def encode(self, text: str) -> list[int]:
        """The text alone; SentencePiece may put a space before it."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_prompt(self, text: str) -> list[int]:
        """A text for a model to continue, behind what the tokenizer puts before it."""
        return [*self.prefix_ids, *self.encode(text)]

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        return [[*self.prefix_ids, *ids] for ids in self.encode_batch(texts)]

    def encode_continuation(self, text: str) -> list[int]:
        """What follows other text: decodes to `text`, and to no space more than a tokenizer adds within it."""
        if not self._adds_space:
            return self.encode(text)
        bare = self.encode(text.removeprefix(" "))
        behind = self.encode(f"\n{text}")  # a line break joins no word, and keeps the space to itself
        candidates = [bare, *(behind[start:] for start in range(1, len(behind) + 1))]
        return next((ids for ids in candidates if self._bytes(ids) == text.encode()), bare)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, special ones left out; what is no UTF-8 becomes the replacement character."""
        return self._bytes(index for index in ids if index not in self.special_ids).decode(errors="replace")

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [self.decode(row) for row in rows]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each item by itself, a special one by its name."""
        return [self._bytes([index]).decode(errors="replace") for index in ids]

    def find(self, text: str) -> int | None:
        """The item of this very text, rather one that encoding gives than one of the byte fallback."""
        found = [index for index, item in enumerate(self.items) if item == text.encode()]
        return min((index for index in found if index not in self.special_ids), key=self._rank, default=None)

    def _rank(self, index: int) -> tuple[bool, int]:
        return index in self.byte_ids, index

    def _bytes(self, ids: Sequence[int] | Iterator[int]) -> bytes:
        """A model may have more ids than there are items."""
        return b"".join(self.items[index] for index in ids if index < len(self.items))

    def _spelled(
        self, is_byte_level: bool, falls_back: bool, directory: Path, added: frozenset[int]
    ) -> tuple[list[bytes], frozenset[int]]:
        """The bytes of all items, and which of them are of the byte fallback."""
        byte_of = _bytes_of_characters()
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        items, of_bytes = [b""] * (max(vocabulary.values()) + 1), set()
        for item, index in vocabulary.items():
            if index in self.special_ids:
                items[index] = item.encode()
            elif not is_byte_level:
                if (byte := _BYTE.fullmatch(item)) and falls_back:
                    items[index] = bytes.fromhex(byte[1])
                    of_bytes.add(index)
                else:
                    items[index] = item.replace(_SPACE, " ").encode()
            elif index in added:
                items[index] = item.encode()  # is found in the text itself
            elif all(character in byte_of for character in item):
                items[index] = bytes(byte_of[character] for character in item)
            else:
                raise UserError(f"{directory}: vocabulary item {item!r} is not written in bytes, as others are")
        return items, frozenset(of_bytes)

    def _prefix(self, directory: Path) -> list[int]:
        bare, whole = (self._backend.encode("a", add_special_tokens=special).ids for special in (False, True))
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start]
        raise UserError(f"{directory}: with what its tokenizer puts before a text, the text is not the same any more")


def _files(directory: Path) -> list[Path]:
    """The files of a vocabulary; raises `UserError` where there are none."""
    for names in (["tokenizer.json"], ["vocab.json", "merges.txt"]):
        files = [directory / name for name in names]
        if all(file.exists() for file in files):
            return files
    raise UserError(f"{directory} has neither tokenizer.json nor vocab.json with merges.txt")


def _read(directory: Path) -> HFTokenizer:
    first, *others = _files(directory)
    if not others:
        try:
            return HFTokenizer.from_file(str(first))
        except Exception as error:  # the library raises nothing more precise
            raise UserError(f"{first} cannot be read as a tokenizer: {error}") from error
    try:
        backend = HFTokenizer(models.BPE.from_file(str(first), str(others[0])))
    except Exception as error:  # nor here
        raise UserError(f"{first} and {others[0]} cannot be read as a tokenizer: {error}") from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if backend.token_to_id("<|endoftext|>") is not None:
        backend.add_special_tokens(["<|endoftext|>"])
    return backend


def _check_names(content: dict[str, Any], directory: Path) -> None:
    """Raises `UserError` where what is put around a text has a name that stands for nothing, on which encoding ends."""
    for step in _flat(content["post_processor"], "processors"):
        if step["type"] == "TemplateProcessing":
            for piece in [*step["single"], *step["pair"]]:
                name = piece.get("SpecialToken", {}).get("id")
                if name is not None and name not in step["special_tokens"]:
                    raise UserError(
                        f"{directory}: its tokenizer puts {name!r} around texts, and does not say what it is"
                    )


def _kind(content: dict[str, Any], directory: Path) -> tuple[bool, bool]:
    """Whether items are written in characters that stand for bytes, or else as SentencePiece does; its byte fallback.

    Raises `UserError` where they are of neither kind.
    """
    model, steps = content["model"], _flat(content["decoder"], "decoders")
    kinds = [step["type"] for step in steps]
    if model["type"] in ("BPE", "Unigram") and not model.get("continuing_subword_prefix"):
        if kinds == ["ByteLevel"]:
            return True, False
        others = [step["type"] for step in steps if not _makes_spaces(step)]
        if len(others) < len(steps) and all(kind in _BESIDE_SPACES for kind in others):
            return False, model.get("byte_fallback", False)
    raise UserError(
        f"{directory}: its tokenizer is a {model['type']} decoded by {' and '.join(kinds) or 'nothing'}; only those "
        "of bytes and of SentencePiece are known here"
    )


def _makes_spaces(step: dict[str, Any]) -> bool:
    is_replacement = step["type"] == "Replace" and step["pattern"] == {"String": _SPACE} and step["content"] == " "
    return is_replacement or (step["type"] == "Metaspace" and step["replacement"] == _SPACE)


def _flat(step: dict[str, Any] | None, parts: str) -> list[dict[str, Any]]:
    """The steps of a sequence of `parts`, which may be sequences too, one after the other."""
    if step is None:
        return []
    return [each for part in step[parts] for each in _flat(part, parts)] if step["type"] == "Sequence" else [step]


def _named_end(directory: Path) -> str | None:
    """What the files beside the vocabulary call the end of a text."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if not (file := directory / name).exists():
            continue
        try:
            named = json.loads(file.read_text(encoding="utf-8")).get("eos_token")
        except (ValueError, AttributeError) as error:
            raise UserError(f"{file} is not a JSON object: {error}") from error
        if named:
            text = named.get("content") if isinstance(named, dict) else named
            if not isinstance(text, str) or _SURROGATE.search(text):
                raise UserError(f"{file}: eos_token is {named!r}, and must be a text")
            return text
    return None


def _bytes_of_characters() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level BPE files, and back to its byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}
