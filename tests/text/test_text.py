"""Tokenizer, vocabulary rules, prompt files."""

import collections
import functools

import numpy as np
import pytest
from helpers import MINIATURE, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gfn_jax.base_config import base
from gfn_jax.errors import UserError
from gfn_jax.text.prompts import indices_of_step, pad_to_bucket, read_lines, split
from gfn_jax.text.tokenizer import Tokenizer
from gfn_jax.text.vocabulary import banned_items, terminator_id

RULES = base().task.bans.to_dict()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(MINIATURE / "gpt2")


@pytest.fixture(scope="module")
def handmade(tmp_path_factory):
    """A tokenizer from vocab.json and merges.txt with the items that rules are about."""
    from tokenizers import ByteLevelBPETokenizer

    text = 'He said "no".\n\nSee http://x.org ... (two) — don\'t? x.) €5 "..." Ünï!? [a]  b' * 3
    directory = tmp_path_factory.mktemp("handmade")
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([text], vocab_size=340, min_frequency=1, special_tokens=["<|endoftext|>"])
    trained.save_model(str(directory))
    return Tokenizer(directory)


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_encoding_equals_hugging_face_and_decodes_to_itself(tokenizer, text):
    theirs = hugging_face()
    assert tokenizer.encode(text) == theirs(text)["input_ids"]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@functools.cache
def hugging_face():
    return AutoTokenizer.from_pretrained(MINIATURE / "gpt2")


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 300), max_size=8))
def test_items_spell_what_decoding_says(handmade, ids):
    spelled = b"".join(handmade.items[index] for index in ids).decode(errors="replace")
    assert handmade.decode(ids) == spelled


def test_a_directory_without_or_with_a_broken_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor vocab\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a tokenizer"):
        Tokenizer(tmp_path)


def test_rules_ban_what_they_say_and_nothing_that_a_sentence_needs(handmade):
    banned = banned_items(handmade, ".", RULES)
    text = {item.decode(errors="replace"): index for index, item in enumerate(handmade.items)}
    stop = text["."]
    assert not any(mask[stop] for mask in banned.values())
    checked = 0
    for rule, items in {
        "special": ["<|endoftext|>"],
        "control": ["\x00", "\n", "\x7f"],
        "line_break": ["\n", "\n\n"],
        "quote": ['"', ' "', "'"],
        "bracket": ["(", " (", "["],
        "punctuation_run": ["...", '".'],
        "sentence_end": ["?", "!", "!?"],
        "terminator": ["...", ".)"],
        "url": ["http"],
    }.items():
        for item in items:
            if item in text:
                assert banned[rule][text[item]], (rule, item)
                checked += 1
    assert checked >= 12
    everything = np.any(list(banned.values()), axis=0)
    for item in ("A", "I", "a", "e", ",", "5", "-"):
        assert not everything[text[item]], item


def test_parts_of_characters_are_banned(handmade):
    banned = banned_items(handmade, ".", {})["part_of_character"]
    broken = np.zeros_like(banned)
    for index, item in enumerate(handmade.items):
        try:
            item.decode()
        except UnicodeDecodeError:
            broken[index] = True
    assert broken.sum() >= 128  # at least the bytes that no character consists of alone
    np.testing.assert_array_equal(banned, broken)


def test_gpt2_has_352_parts_of_characters():
    directory = ROOT.parent / "shared" / "data" / "gpt2_bpe"
    if not directory.is_dir():
        pytest.skip("GPT-2's vocabulary is not at hand")
    assert banned_items(Tokenizer(directory), ".", RULES)["part_of_character"].sum() == 352


def test_whatever_is_allowed_is_text_that_only_the_terminator_ends(tokenizer):
    """Random strings of allowed items decode to whole text without the terminator's character."""
    allowed = np.flatnonzero(~np.any(list(banned_items(tokenizer, ".", RULES).values()), axis=0))
    stop = terminator_id(tokenizer, ".")
    words = allowed[allowed != stop]
    rng = np.random.default_rng(0)
    for _ in range(200):
        text = tokenizer.decode(rng.choice(words, 12).tolist())
        assert "." not in text
        assert "�" not in text
        assert text.isprintable()


def test_a_terminator_of_several_tokens_and_a_bad_rule_are_refused(tokenizer):
    with pytest.raises(UserError, match="must be one token"):
        terminator_id(tokenizer, "the end")
    with pytest.raises(UserError, match=r"task\.bans\.broken"):
        banned_items(tokenizer, ".", {"broken": "("})
    with pytest.raises(UserError, match="leaves no vocabulary item"):
        banned_items(tokenizer, ".", {"all": ""})


def test_lines_lose_their_white_space_and_blank_ones_go(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("One two. \n\n   \n Three. Four.\t\n")
    assert list(read_lines(str(file), "data.path").values()) == ["One two.", "Three. Four."]


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_empty_and_missing_files_are_refused(tmp_path, content):
    file = tmp_path / "prompts.txt"
    with pytest.raises(UserError, match="there is no file"):
        read_lines(str(file), "data.path")
    file.write_text(content)
    with pytest.raises(UserError, match="holds no line"):
        read_lines(str(file), "data.path")


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=3), min_size=9, unique=True), order=st.randoms())
def test_the_split_ignores_order_and_repetitions_and_separates(texts, order):
    train, validation = split(texts, 3)
    assert len(validation) == 3
    assert sorted([*train, *validation]) == sorted(texts)
    shuffled = texts + texts[:2]
    order.shuffle(shuffled)
    assert split(shuffled, 3) == (train, validation)


def test_too_few_prompts_to_split_are_refused():
    with pytest.raises(UserError, match=r"data\.val_prompts is 2"):
        split(["a", "b", "a"], 2)


@settings(max_examples=50, deadline=None)
@given(total=st.integers(1, 30), batch=st.integers(1, 12), seed=st.integers(0, 5))
def test_every_epoch_takes_every_example_once_in_a_new_order(total, batch, seed):
    steps = -(-3 * total // batch)
    stream = np.concatenate([indices_of_step(step, batch, total, seed) for step in range(steps)])
    epochs = [stream[epoch * total : (epoch + 1) * total] for epoch in range(3)]
    for epoch in epochs:
        assert collections.Counter(epoch.tolist()) == dict.fromkeys(range(total), 1)
    if total > 12:
        assert (epochs[0] != epochs[1]).any()


def test_rows_are_padded_to_the_smallest_bucket_that_holds_them():
    prompts = pad_to_bucket([[5, 6, 7], [8]], (2, 4, 8), longest=3)
    assert prompts.tokens_BxP.tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert prompts.length_B.tolist() == [3, 1]
    assert pad_to_bucket([[5]], (2, 4, 8), longest=5).tokens_BxP.shape == (1, 8)
