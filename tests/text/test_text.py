"""Tokenizer, vocabulary rules, prompt files."""

import collections
import functools
import hashlib
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import MINIATURE, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as HFTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gfn_jax.config.base import base
from gfn_jax.runtime.errors import UserError
from gfn_jax.text.prompts import indices_of_step, normalised, pad_to_bucket, read_lines, split
from gfn_jax.text.tokenizer import Tokenizer
from gfn_jax.text.vocabulary import END_OF_TEXT, banned_items, terminator_id

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


STEPS: dict[str, dict[str, Any]] = {  # as published: of Llama 2 and Mistral, of those that came after them, of Gemma
    "prepended": {"normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])},
    "metaspace": {"pre_tokenizer": pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)},
    "replaced": {
        "normalizer": normalizers.Replace(" ", "▁"),
        "pre_tokenizer": pre_tokenizers.Split(" ", "merged_with_previous"),
    },
}
BYTES = range(3, 259)  # the ids of the byte fallback
NO_ITEM = 259


def save_sentence_piece(directory: Path, kind: str) -> Path:
    """A small tokenizer of SentencePiece's sort: three special items, 256 bytes, an id without item, and pieces."""
    text = ['The cat sat on the mat. "No," she said... See the cats. They ate.'] * 3
    trained = HFTokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace("▁")
    trained.train_from_iterator(text, trainers.BpeTrainer(vocab_size=60, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names_by_id = dict(enumerate(names)) | {NO_ITEM + 1 + rank: piece for piece, rank in model["vocab"].items()}
    vocabulary = {name: index for index, name in names_by_id.items()} | {"<tool>": len(names_by_id) + 1}
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = HFTokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    for name, step in STEPS[kind].items():
        setattr(tokenizer, name, step)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps if kind == "replaced" else [*steps, decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@functools.cache
def hugging_face(directory: Path = MINIATURE / "gpt2") -> Any:
    if directory == MINIATURE / "gpt2":
        return AutoTokenizer.from_pretrained(directory)
    return PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))


@pytest.fixture(scope="module", params=STEPS)
def sentence_piece(request, tmp_path_factory):
    """A tokenizer of each kind, and its directory."""
    directory = save_sentence_piece(tmp_path_factory.mktemp("pieces") / "here", request.param)
    return Tokenizer(directory), directory


TEXTS = st.text(st.characters(exclude_characters="▁<", exclude_categories=["Cs"])) | st.text(
    " Thecatson.", max_size=20
)  # no special names


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"])))
def test_encoding_equals_hugging_face_and_decodes_to_itself(tokenizer, text):
    assert tokenizer.encode_prompt(text) == tokenizer.encode(text) == hugging_face()(text)["input_ids"]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_continuation(text) == tokenizer.encode(text)


@settings(max_examples=50, deadline=None)
@given(text=TEXTS)
def test_prompts_of_pieces_equal_hugging_face_and_continuations_decode_to_themselves(sentence_piece, text):
    ours, directory = sentence_piece
    theirs = hugging_face(directory)(text)["input_ids"]
    assert ours.encode_prompt(text) == ours.encode_prompts(["a", text])[1] == theirs
    assert ours.encode(text) == theirs[1:]
    assert ours.decode(ours.encode_continuation(text)) == text
    assert ours.decode(ours.encode(text)) in (text, f" {text}")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_decoding_equals_hugging_face_and_is_what_the_items_spell(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, len(tokenizer.items) - 1) | st.integers(0, 300), max_size=8))
    theirs = hugging_face().decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert tokenizer.decode(ids) == tokenizer.decode_batch([[], ids])[1] == theirs
    words = [index for index in ids if index not in tokenizer.special_ids]
    assert b"".join(tokenizer.items[index] for index in words).decode(errors="replace") == theirs


def test_a_continuation_of_pieces_keeps_its_space(sentence_piece):
    tokenizer, directory = sentence_piece
    ids = tokenizer.encode_prompt("The cat sat")
    start = tokenizer.pieces(ids).index(" sat")
    assert tokenizer.decode(ids[start:]) == " sat"
    assert tokenizer.decode(ids[:start]) + tokenizer.decode(ids[start:]) == tokenizer.decode(ids)
    assert tokenizer.decode(ids).strip() == hugging_face(directory).decode(ids, skip_special_tokens=True)
    assert tokenizer.pieces([2, *tokenizer.encode_continuation("\n"), 3 + 0xC3]) == ["</s>", "\n", "�"]


def test_special_names_in_a_text_are_text(sentence_piece, handmade):
    tokenizer, _ = sentence_piece
    assert tokenizer.prefix_ids == [1]
    for each, name in ((tokenizer, "</s>"), (handmade, "<|endoftext|>")):
        ids = each.encode(f"the {name} sat")
        assert each.special_ids
        assert not each.special_ids & {*ids}
        assert each.decode(ids).strip() == f"the {name} sat"
        assert each.decode([*ids, *each.special_ids]) == each.decode(ids)
    (tool,) = tokenizer.encode_continuation("<tool>")  # which is no special item
    assert tokenizer.pieces([tool]) == ["<tool>"]


def test_what_stands_behind_a_text_is_dropped(tmp_path):
    directory = save_sentence_piece(tmp_path / "here", "prepended")
    backend = HFTokenizer.from_file(str(directory / "tokenizer.json"))
    named = [("<s>", 1), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing("<s> <s> $A </s>", special_tokens=named)
    backend.save(str(directory / "tokenizer.json"))
    tokenizer = Tokenizer(directory)
    assert tokenizer.prefix_ids == [1, 1]
    assert [*tokenizer.encode_prompt("the cat"), 2] == hugging_face(directory)("the cat")["input_ids"]


def test_bytes_are_what_they_stand_for_and_ids_without_item_are_banned(sentence_piece):
    tokenizer, _ = sentence_piece
    assert [tokenizer.items[index] for index in BYTES] == [bytes([byte]) for byte in range(256)]
    assert tokenizer.byte_ids == {*BYTES}
    banned = banned_items(tokenizer, ".", RULES)
    assert banned["line_break"][3 + ord("\n")]
    assert [*np.flatnonzero(banned["unused"])] == [NO_ITEM]
    assert tokenizer.items[NO_ITEM] == b""
    assert [*np.flatnonzero(banned["special"])] == [0, 1, 2]
    np.testing.assert_array_equal(banned["part_of_character"][BYTES], np.arange(256) >= 128)


def test_a_terminator_is_rather_a_piece_than_a_byte(sentence_piece):
    tokenizer, _ = sentence_piece
    stop = terminator_id(tokenizer, ".")
    assert tokenizer.items[stop] == b"."
    assert stop not in BYTES
    banned = banned_items(tokenizer, ".", {})["terminator"]
    assert banned[3 + ord(".")]
    assert not banned[stop]
    assert terminator_id(tokenizer, "\n") == 3 + ord("\n")
    assert tokenizer.items[terminator_id(tokenizer, " the")] == b" the"
    with pytest.raises(UserError, match="must be one token of this tokenizer, and is"):
        terminator_id(tokenizer, " the cat")
    with pytest.raises(UserError, match=r"'</s>' is a special item, .*'<end of text>' stands for"):
        terminator_id(tokenizer, "</s>")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 2),  # by its usual name
        ({"tokenizer_config.json": {"eos_token": "<s>"}}, 1),
        ({"tokenizer_config.json": {"eos_token": {"content": "<unk>"}}}, 0),
        ({"tokenizer_config.json": {"eos_token": None}, "special_tokens_map.json": {"eos_token": "<s>"}}, 1),
        ({"tokenizer_config.json": {"eos_token": "nowhere"}}, 2),
    ],
)
def test_the_end_of_text_is_the_one_that_the_files_name(tmp_path, files, expected):
    directory = save_sentence_piece(tmp_path / "here", "replaced")
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    tokenizer = Tokenizer(directory)
    assert tokenizer.end_of_text == terminator_id(tokenizer, END_OF_TEXT) == expected
    banned = banned_items(tokenizer, END_OF_TEXT, RULES)
    assert not banned["terminator"].any()
    assert {*np.flatnonzero(banned["special"])} == {0, 1, 2} - {expected}


def test_an_end_of_text_that_is_not_there_is_refused(tmp_path):
    directory = save_sentence_piece(tmp_path / "here", "replaced")
    text = (directory / "tokenizer.json").read_text()
    (directory / "tokenizer.json").write_text(text.replace("</s>", "<end>"))
    tokenizer = Tokenizer(directory)
    assert tokenizer.end_of_text is None
    with pytest.raises(UserError, match="has no item that ends a text"):
        terminator_id(tokenizer, END_OF_TEXT)
    (directory / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"tokenizer_config\.json is not a JSON object"):
        Tokenizer(directory)


@pytest.mark.parametrize(
    ("model", "decoder", "named"),
    [
        (
            models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
            decoders.WordPiece(),
            "WordPiece decoded by WordPiece",
        ),
        (models.BPE({"a": 0}, []), None, "BPE decoded by nothing"),
        (models.BPE({"a": 0}, []), decoders.Replace("_", " "), "BPE decoded by Replace"),
        (models.WordLevel({"a": 0}, unk_token="a"), decoders.ByteLevel(), "WordLevel decoded by ByteLevel"),
    ],
)
def test_tokenizers_of_other_kinds_are_refused_by_name(tmp_path, model, decoder, named):
    tokenizer = HFTokenizer(model)
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=named):
        Tokenizer(tmp_path)


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


def test_whatever_is_allowed_is_text_that_only_the_terminator_ends(tokenizer, sentence_piece):
    """Random strings of allowed items decode to whole text without the terminator's character."""
    for each in (tokenizer, sentence_piece[0]):
        allowed = np.flatnonzero(~np.any(list(banned_items(each, ".", RULES).values()), axis=0))
        words = allowed[allowed != terminator_id(each, ".")]
        rng = np.random.default_rng(0)
        for _ in range(200):
            text = each.decode(rng.choice(words, 12).tolist())
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
    assert list(read_lines(str(file), "data.path")) == [(1, "One two."), (4, "Three. Four.")]


def test_a_path_that_no_file_can_have_is_one_line():
    with pytest.raises(UserError, match=r"data\.path: .* cannot be read"):
        next(read_lines("a\ud800", "data.path"))


def test_a_byte_order_mark_is_no_text(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("One two.\nThree.\n", encoding="utf-8-sig")
    assert dict(read_lines(str(file), "data.path")) == {1: "One two.", 2: "Three."}


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_empty_and_missing_files_are_refused(tmp_path, content):
    file = tmp_path / "prompts.txt"
    with pytest.raises(UserError, match="there is no file"):
        list(read_lines(str(file), "data.path"))
    file.write_text(content)
    with pytest.raises(UserError, match="holds no line"):
        list(read_lines(str(file), "data.path"))


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=3), min_size=9, unique_by=normalised), order=st.randoms())
def test_the_split_is_by_hash_whatever_the_order_and_the_repetitions(texts, order):
    train, validation = split(texts, 3)
    assert len(validation) == 3
    assert [*validation, *train] == sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())
    shuffled = texts + texts[:2]
    order.shuffle(shuffled)
    assert split(shuffled, 3) == (train, validation)


TWINS: dict[str, Callable[[str], str]] = {
    "case": str.upper,
    "white space": lambda text: text.replace(" ", "\u00a0"),
    "Unicode form": lambda text: unicodedata.normalize("NFD", text),
}


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
def test_texts_that_differ_in_case_white_space_or_unicode_form_alone_are_on_one_side(twin):
    texts = [f"Zoë saw {number} cafés." for number in range(100)]
    train, validation = split([*texts, *map(twin, texts)], 24)
    assert len(validation) == 24
    assert sorted([*train, *validation]) == sorted([*texts, *map(twin, texts)])
    assert not {twin(text) for text in train} & {twin(text) for text in validation}


def test_too_few_prompts_to_split_are_refused():
    with pytest.raises(UserError, match=r"data\.val_prompts is 2"):
        split(["a", "b", "a"], 2)
    with pytest.raises(UserError, match=r"data\.val_prompts is 2"):
        split(["a", "A", "a "], 2)


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


def test_the_order_of_an_epoch_is_drawn_once_and_depends_on_seed_and_epoch_alone(monkeypatch):
    total, batch, seed = 50, 8, 1_234
    whole = np.concatenate([np.random.default_rng([seed, epoch]).permutation(total) for epoch in range(2)])
    drawn, generator = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda key: drawn.append(tuple(key)) or generator(key))
    for step in range(12):
        np.testing.assert_array_equal(indices_of_step(step, batch, total, seed), whole[step * batch :][:batch])
    assert drawn == [(seed, 0), (seed, 1)]


def test_rows_are_padded_to_the_smallest_bucket_that_holds_them():
    prompts = pad_to_bucket([[5, 6, 7], [8]], (2, 4, 8), longest=3)
    assert prompts.tokens_BxP.tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert prompts.length_B.tolist() == [3, 1]
    assert pad_to_bucket([[5]], (2, 4, 8), longest=5).tokens_BxP.shape == (1, 8)
