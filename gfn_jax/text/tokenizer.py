"""GPT-2 tokenizers, read from a Hugging Face directory without transformers."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers

from gfn_jax.errors import UserError


class Tokenizer:
    """Text to token ids and back; `items` holds every vocabulary item's bytes.

    Raises `UserError` where the directory holds neither `tokenizer.json` nor `vocab.json` with
    `merges.txt`, or not a byte-level BPE.
    """

    def __init__(self, directory: Path):
        single, vocabulary, merges = (directory / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
        if single.exists():
            try:
                self._backend = HFTokenizer.from_file(str(single))
            except Exception as error:  # the library raises nothing more precise
                raise UserError(f"{single} cannot be read as a tokenizer: {error}") from error
        elif vocabulary.exists() and merges.exists():
            self._backend = HFTokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
            self._backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            self._backend.decoder = decoders.ByteLevel()
            if self._backend.token_to_id("<|endoftext|>") is not None:
                self._backend.add_special_tokens(["<|endoftext|>"])
        else:
            raise UserError(f"{directory} has neither tokenizer.json nor vocab.json with merges.txt")
        self._backend.no_padding()
        self._backend.no_truncation()
        self.special_ids = frozenset(
            index for index, token in self._backend.get_added_tokens_decoder().items() if token.special
        )
        self.items = self._item_bytes(directory)

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return self._backend.decode_batch([list(row) for row in rows], skip_special_tokens=False)

    def _item_bytes(self, directory: Path) -> list[bytes]:
        byte_of = _bytes_of_characters()
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        items = [b""] * (max(vocabulary.values()) + 1)
        for item, index in vocabulary.items():
            if index in self.special_ids:
                items[index] = item.encode()
            elif all(character in byte_of for character in item):
                items[index] = bytes(byte_of[character] for character in item)
            else:
                raise UserError(f"{directory}: vocabulary item {item!r} is not of a byte-level BPE, as GPT-2's are")
        return items


def _bytes_of_characters() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level BPE files, and back to its byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}
