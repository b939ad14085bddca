"""One prompt out of a document: some consecutive sentences that the rules accept, drawn by the document's hash."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import sentencex
from paragraphs import blocks, prose
from prompt_rules import refusal

from gfn_jax.text.tokenizer import Tokenizer


class Prompt(NamedTuple):
    """Sentences, and how many tokens each has where it stands: all but the first with the space before it."""

    sentences: list[str]
    tokens: list[int]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


def split_sentences(paragraph: str) -> Iterator[str]:
    """The sentences of a paragraph; one that no space parts from the next, as in NEWS.Debian, is none."""
    sentence = ""
    for piece in sentencex.segment("en", paragraph):
        if sentence and (sentence.endswith(" ") or piece.startswith(" ")):
            yield sentence.strip()
            sentence = ""
        sentence += piece
    yield sentence.strip()


class _Sentence(NamedTuple):
    text: str
    tokens_first: int
    tokens_later: int


@dataclass(frozen=True)
class Drawing:
    """How many sentences a prompt has at most, how many tokens each of them has, and what seeds the draws."""

    tokenizer: Tokenizer
    min_tokens: int
    max_tokens: int
    max_sentences: int
    seed: int

    def draw(self, document: str, tally: Counter[str]) -> Prompt | None:
        """The document's prompt, or nothing; `tally` counts what was read, and what each filter refused.

        Seed and text alone decide how many sentences there are to be, 1 to `max_sentences`, and which. A
        document without so many acceptable ones in a row, within a paragraph, gives the most that it has.
        """
        tally["documents/read"] += 1
        runs = [run for block in blocks(document) for run in self._acceptable_runs(block, tally)]
        if not runs:
            tally["documents/no acceptable sentence"] += 1
            return None
        digest = hashlib.sha256(f"{self.seed}\n{document}".encode()).digest()
        wanted, place = 1 + int.from_bytes(digest[:8]) % self.max_sentences, int.from_bytes(digest[8:16])
        count = min(wanted, max(map(len, runs)))
        candidates = [run[start : start + count] for run in runs for start in range(len(run) - count + 1)]
        first, *later = candidates[place % len(candidates)]
        return Prompt(
            [first.text, *(sentence.text for sentence in later)],
            [first.tokens_first, *(sentence.tokens_later for sentence in later)],
        )

    def _acceptable_runs(self, block: str, tally: Counter[str]) -> Iterator[list[_Sentence]]:
        paragraphs = prose(block)
        tally["paragraphs/read"] += max(len(paragraphs), 1)
        tally["paragraphs/list, table, code or verse"] += not paragraphs
        for paragraph in paragraphs:
            run: list[_Sentence] = []
            for text in split_sentences(paragraph):
                tally["sentences/read"] += 1
                sentence = self._accept(text, tally)
                if sentence is not None:
                    run.append(sentence)
                elif run:
                    yield run
                    run = []
            if run:
                yield run

    def _accept(self, text: str, tally: Counter[str]) -> _Sentence | None:
        """The sentence, where it has an acceptable number of tokens both as the first one and as a later one."""
        reason = refusal(text)
        if reason is None:
            counts = len(self.tokenizer.encode(text)), len(self.tokenizer.encode(f" {text}"))
            if min(counts) < self.min_tokens:
                reason = "too few tokens"
            elif max(counts) > self.max_tokens:
                reason = "too many tokens"
            else:
                return _Sentence(text, *counts)
        tally[f"sentences/{reason}"] += 1
        return None
