"""Prompts out of documents: the rules hold of each, and a killed run ends as if it had not been."""

import gzip
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from types import SimpleNamespace

import prompt_search
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencex
from document_stream import documents, open_dataset, open_file
from helpers import MINIATURE, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from paragraphs import blocks, prose
from prompt_collection import Collection
from prompt_drawing import Drawing, split_sentences
from prompt_rules import FILTERS, refusal
from rich.console import Console
from transformers import AutoTokenizer

from gfn_jax.runtime.errors import UserError
from gfn_jax.text.tokenizer import Tokenizer

WORDS = ["people", "walked", "over", "the", "old", "bridge", "because", "rain", "had", "washed", "away", "its", "roads"]
JUNK = ["See http://x.org/a for it.", "- a list\n- of things", "HERE IS A HEADING", "| a | table |", "he said so."]
LIMITS = {"min_tokens": 6, "max_tokens": 24, "max_sentences": 3}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(MINIATURE / "gpt2")


@pytest.fixture(scope="module")
def corpus():
    """Random documents: paragraphs of sentences of many lengths, hard-wrapped or not, and what is no prose."""
    rng = random.Random(0)

    def sentence() -> str:
        words = rng.choices(WORDS, k=rng.randint(1, 14))
        if rng.random() < 0.2:
            words[-1] = rng.choice(['"oh', "(so", "nowhere]", "x_y"])
        start = rng.choice(["When", "She", "Because"])  # as a first word of a prompt these have other numbers of tokens
        return " ".join([start, *words]) + rng.choice([".", ".", "!", "?", "", "..."])

    def paragraph() -> str:
        if rng.random() < 0.2:
            return rng.choice(JUNK)
        text = " ".join(sentence() for _ in range(rng.randint(1, 6)))
        return textwrap.fill(text, 60) if rng.random() < 0.5 else text

    corpus = ["\n\n".join(paragraph() for _ in range(rng.randint(1, 5))) for _ in range(120)]
    return [*corpus, "", *corpus[:5], "Twice there was a dog here.", "Twice  there was a\tDog here."]


@pytest.fixture(params=["jsonl.gz", "parquet", "json"])
def corpus_file(request, corpus, tmp_path):
    file = tmp_path / f"corpus.{request.param}"
    rows = [{"url": number, "text": text} for number, text in enumerate(corpus)]
    if request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=7)
    elif request.param == "json":
        file.write_text(json.dumps(rows))
    else:
        file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return file


def run(file, out, tokenizer, count=1000, seed=0, **parts) -> Collection:
    """One run to its end, as the command makes it."""
    collection = Collection(out, {"seed": seed, "count": count})
    drawing = parts.pop("drawing", Drawing)(tokenizer, **LIMITS, seed=seed)
    prompt_search.search(open_file(file), drawing, collection, count, Console(quiet=True), **parts)
    collection.finish()
    return collection


def test_the_rules_hold_of_every_prompt(corpus_file, corpus, tokenizer, tmp_path):
    """Checked anew on the file's lines, with Hugging Face's tokenizer, against the documents."""
    theirs = AutoTokenizer.from_pretrained(MINIATURE / "gpt2")
    collapsed = [" ".join(text.split()) for text in corpus]
    collection = run(corpus_file, tmp_path / "prompts.txt", tokenizer)
    lines = (tmp_path / "prompts.txt").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(set(map(str.casefold, lines))) == len(collection.prompts) >= 50
    lengths = Counter()
    for line, prompt in zip(lines, collection.prompts, strict=True):
        assert line == " ".join(line.split())
        assert any(line in text for text in collapsed)
        starts = theirs(line, return_offsets_mapping=True)["offset_mapping"]
        position, counts = 0, []
        sentences = [sentence.strip() for sentence in sentencex.segment("en", line)]
        for sentence in sentences:
            end = line.index(sentence, position) + len(sentence)
            counts.append(sum(position <= start < end for start, _ in starts))
            assert re.fullmatch(r"[A-Z][^_/|]*[a-z][^_/|]*[.!?]", sentence)
            assert sentence.count('"') % 2 == sentence.count("(") == sentence.count("]") == 0
            position = end  # the space before the next sentence is the next one's
        assert sentences == prompt.sentences
        assert counts == prompt.tokens
        assert all(LIMITS["min_tokens"] <= count <= LIMITS["max_tokens"] for count in counts)
        lengths[len(sentences)] += 1
    assert all(lengths[number] >= 5 for number in (1, 2, 3))
    assert collection.tally["documents/repeats an earlier prompt"] >= 1


def test_what_is_counted_adds_up(corpus, tokenizer, tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus))
    tally = (collection := run(file, tmp_path / "prompts.txt", tokenizer)).tally
    refused = Counter()
    for key, count in tally.items():
        unit, reason = key.split("/", 1)
        if reason != "read":
            refused[unit] += count
    assert tally["documents/read"] == len(corpus) == len(collection.prompts) + refused["documents"]
    paragraphs = [prose(block) for text in corpus for block in blocks(text)]
    assert tally["paragraphs/read"] == sum(max(len(lines), 1) for lines in paragraphs)
    assert refused["paragraphs"] == paragraphs.count([]) > 0
    sentences = [text for lines in paragraphs for line in lines for text in split_sentences(line)]
    assert tally["sentences/read"] == len(sentences)
    within = range(LIMITS["min_tokens"], LIMITS["max_tokens"] + 1)
    accepted = [
        text
        for text in sentences
        if refusal(text) is None
        and len(tokenizer.encode(text)) in within
        and len(tokenizer.encode(f" {text}")) in within
    ]
    assert tally["sentences/read"] == len(accepted) + refused["sentences"]
    assert tally["sentences/too many tokens"] > 0 < tally["sentences/too few tokens"]


class Killed(BaseException):
    """Ends a run as nothing in it expects."""


@pytest.mark.parametrize("seconds", [0, 9])
def test_killed_and_resumed_equals_uninterrupted(corpus_file, tokenizer, tmp_path, monkeypatch, seconds):
    """Killed after every 17 documents, with the last state saved at the last document, or at an earlier one."""
    whole, pieces = tmp_path / "whole.txt", tmp_path / "pieces.txt"
    expected = run(corpus_file, whole, tokenizer)
    ticks = itertools.count()
    monkeypatch.setattr(prompt_search, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))

    class Mortal(Drawing):
        def draw(self, document, tally):
            if next(drawn) == 17:
                raise Killed
            return super().draw(document, tally)

    kills = 0
    while True:
        drawn = itertools.count()
        try:
            resumed = run(corpus_file, pieces, tokenizer, drawing=Mortal, save_every_s=seconds)
            break
        except Killed:
            kills += 1
            assert kills < 50
            assert not pieces.exists()
            with (tmp_path / "pieces.txt.partial").open("a") as file:
                file.write('[["half a')  # as if it had been killed while saving
    assert kills >= 5
    assert pieces.read_bytes() == whole.read_bytes()
    assert resumed.tally == expected.tally
    assert sorted(file.name for file in tmp_path.glob("pieces*")) == ["pieces.txt"]


@pytest.mark.parametrize("corpus_file", ["parquet"], indirect=True)
def test_ctrl_c_saves_the_last_document_too(corpus_file, tokenizer, tmp_path):
    class Interrupted(Drawing):
        def draw(self, document, tally):
            if tally["documents/read"] == 40:
                signal.raise_signal(signal.SIGINT)
            return super().draw(document, tally)

    expected = run(corpus_file, tmp_path / "whole.txt", tokenizer)
    with pytest.raises(KeyboardInterrupt):
        run(corpus_file, tmp_path / "pieces.txt", tokenizer, drawing=Interrupted)
    assert Collection(tmp_path / "pieces.txt", {"seed": 0, "count": 1000}).tally["documents/read"] == 41
    resumed = run(corpus_file, tmp_path / "pieces.txt", tokenizer)
    assert (tmp_path / "pieces.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()
    assert resumed.tally == expected.tally
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("corpus_file", ["parquet"], indirect=True)
def test_the_seed_and_nothing_else_changes_what_is_drawn(corpus_file, tokenizer, tmp_path):
    texts = []
    for number, seed in enumerate([0, 0, 1]):
        run(corpus_file, tmp_path / f"{number}.txt", tokenizer, seed=seed)
        texts.append((tmp_path / f"{number}.txt").read_bytes())
    assert texts[0] == texts[1] != texts[2]
    run(corpus_file, tmp_path / "few.txt", tokenizer, count=10)
    assert (tmp_path / "few.txt").read_bytes() == b"".join(texts[0].splitlines(keepends=True)[:10])


def test_other_settings_and_a_damaged_state_are_refused(tmp_path):
    out = tmp_path / "prompts.txt"
    Collection(out, {"seed": 0, "text": "a"}).save({})
    with pytest.raises(UserError, match=r"prompts\.txt\.state\.json is of other settings \(seed was 0, is 1\)"):
        Collection(out, {"seed": 1, "text": "a"})
    assert Collection(out, {"seed": 0, "text": "a"}).position == {}
    for content in (
        "",
        "{}",
        "[]",
        (tmp_path / "prompts.txt.state.json").read_text().replace('"prompts": 0', '"prompts": 2'),
    ):
        (tmp_path / "prompts.txt.state.json").write_text(content)
        with pytest.raises(UserError, match=r"is damaged.*delete it"):
            Collection(out, {"seed": 0, "text": "a"})


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ('He said, "It is late," and left for the U.S. Senate.', None),
        ("In 1916, the U.S. Navy had 245 active ships.", None),
        ("‘Go,’ she wrote (in ink), and it didn’t matter!", None),
        ("“Where is it?”", None),
        ("and so on it goes.", "begins amid a sentence"),
        ("It goes on and on...", "ends amid a sentence"),
        ("It was said by Mr.", "ends amid a sentence"),
        ("It has no end", "ends amid a sentence"),
        ("It is cafÃ© au lait.", "unreadable characters"),
        ("It has a \x07 bell.", "unreadable characters"),
        ("It is at example.com today.", "an address"),
        ("Write to me@here now.", "an address"),
        ("It is <b>bold</b> here.", "markup"),
        ("It is said so.[3] Yes.", "markup"),
        ("It is 1 2 3 4 5 6 7 8 9.", "few letters"),
        ("Мы говорим на языке.", "foreign letters"),
        ("THIS IS WHAT they SAY.", "in capitals"),
        ("The Best Ways To Cook Eggs!", "a title"),
        ('He said "no and left.', "unbalanced quotes or brackets"),
        ("He left (for good.", "unbalanced quotes or brackets"),
        ("He left “for good.", "unbalanced quotes or brackets"),
        ("He wrote 'it is so and left.", "unbalanced quotes or brackets"),
        ("It ends.Here is more.", "broken spacing"),
        ("It is hyphen- ated here.", "broken spacing"),
        ("3. Stir the soup well.", "a numbered item"),
        ("It is in the work of Smith et al and others.", "a reference"),
        ("Click here to see the rest of it.", "speaks of the page"),
    ],
)
def test_filters_refuse_what_they_name(sentence, reason):
    assert refusal(sentence) == reason


def test_every_filter_has_a_case():
    cases = test_filters_refuse_what_they_name.pytestmark[0].args[1]
    assert {reason for _, reason in cases} == {None, *FILTERS}


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.text("abcxyz", min_size=1, max_size=12), min_size=1, max_size=60), width=st.integers(60, 100))
def test_hard_wrapped_lines_become_one(words, width):
    text = f"Wrapped {' '.join(words)}."
    wrapped = textwrap.fill(text, width)
    assert prose(wrapped) == [text]
    assert prose(textwrap.indent(wrapped, "  ").replace("\n", "\r\n")) == [text]


@pytest.mark.parametrize(
    "block",
    [
        "- one thing\n- another thing",
        "1. one thing",
        "(b) another thing",
        "name\tvalue\none\ttwo",
        "if x:      # so\n    return",
        "Roses are red\nand violets blue\nand this line is longer than any one before",
        "A heading\nand its text, which goes on for so long that nobody would have wrapped it there.",
    ],
)
def test_lists_tables_code_and_verse_are_no_prose(block):
    assert prose(block) == []


def test_long_lines_and_whole_sentences_are_paragraphs_of_their_own():
    long = "This is a line that nobody wrapped, as it goes on and on. " * 4
    assert prose(f"{long}\nA caption\n{long}") == [long.strip(), "A caption", long.strip()]
    assert prose("It is so.\nIt is a longer one, but it is, and nobody wrapped it!") == [
        "It is so.",
        "It is a longer one, but it is, and nobody wrapped it!",
    ]


@settings(max_examples=100, deadline=None)
@given(
    document=st.text(alphabet=st.one_of(st.sampled_from("aB .!?\n\"'(”“-1"), st.characters(codec="utf-8")), max_size=80)
)
def test_any_text_is_taken_or_refused(tokenizer, document):
    tally = Counter()
    prompt = Drawing(tokenizer, 1, 50, 2, seed=0).draw(document, tally)
    assert tally["documents/read"] == 1
    assert (prompt is None) == (tally["documents/no acceptable sentence"] == 1)
    assert prompt is None or prompt.text in " ".join(document.split())


def test_only_what_spaces_part_are_sentences():
    assert list(split_sentences("Keep notes in the NEWS.Debian file. Read it before you go on.")) == [
        "Keep notes in the NEWS.Debian file.",
        "Read it before you go on.",
    ]
    assert list(split_sentences("It was argued so.[4] In terms of it, there is much.")) == [
        "It was argued so.[4]",
        "In terms of it, there is much.",
    ]


def test_paragraphs_of_a_text_file_are_its_documents(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("One two\nthree.\n\n\nFour.\n")
    assert [text.strip() for text in documents(open_file(file), 0)] == ["One two\nthree.", "Four."]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, r"--text: there is no file .*none\.txt"),
        ("empty.jsonl", b"", "holds no document"),
        ("named.jsonl", b'{"txt": "a"}', 'document 8 has no text in a field "text"; its fields are txt'),
        ("broken.jsonl", b'{"text": "a"}\n{"text":', "document 8 cannot be read"),
        ("latin.txt", "café".encode("latin1"), "document 8 cannot be read: UnicodeDecodeError"),
    ],
)
def test_a_file_that_gives_no_documents_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(documents(open_file(tmp_path / name), 7))


def test_a_dataset_that_cannot_be_had_is_refused():
    with pytest.raises(UserError, match="--dataset: nobody/nothing cannot be read: ConnectionError"):
        open_dataset("nobody/nothing")


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "data/openwebtext/generate_prompts.py", *arguments]
    environment = os.environ | {"USE_TORCH": "0"}  # or `datasets` imports it, which takes seconds
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_writes_prompts_and_plot_and_says_when_they_are_fewer(corpus, tmp_path):
    text, out = tmp_path / "corpus.txt", tmp_path / "new" / "prompts.txt"
    text.write_text("\n\n".join(corpus))
    ended = generate(f"--text={text}", f"--tokenizer={MINIATURE / 'gpt2'}", f"--out={out}", "--max_tokens=60")
    assert ended.returncode == 0, ended.stderr
    found = len(out.read_text().splitlines())
    assert re.search(rf"{found} prompts are in {re.escape(str(out))}, fewer than the 1000 asked for", ended.stdout)
    assert "ends amid a sentence" in ended.stdout
    assert (out.parent / "prompt_stats.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in out.parent.iterdir()) == ["prompt_stats.png", "prompts.txt"]


def test_the_command_ends_in_one_line_on_what_the_user_can_mend(tmp_path):
    ended = generate("--min_tokens=9", "--max_tokens=3", f"--out={tmp_path / 'prompts.txt'}")
    assert (ended.returncode, ended.stderr) == (2, "error: --min_tokens 9 is more than --max_tokens 3\n")
    assert not any(tmp_path.iterdir())
