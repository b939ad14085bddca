"""Fact edits as published become the contradiction task's data."""

import json
import re
import subprocess
import sys

import pytest
from fact_conversion import DUPLICATE, NOT_A_VALUE, UNCHANGED, WITHOUT_SUBJECT, read_edits, select
from fact_formats import Edit
from fact_text import as_statement
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks.contradiction import FactEdit

QUESTION = {
    "subject": "Lake Orrin",
    "src": "Which river leaves  Lake Orrin ?",
    "pred": "the Dunn",
    "alt": "the Marl",
    "answers": ["the Sill", "Sill River"],
    "loc": "nq question: who wrote it",
}
COUNTERFACT = {
    "case_id": 3,
    "requested_rewrite": {
        "prompt": "The capital of {} is",
        "subject": "Norvia",
        "relation_id": "P36",
        "target_new": {"str": " Tarn", "id": "Q1"},
        "target_true": {"str": "Old Holm.", "id": "Q2"},
    },
    "paraphrase_prompts": [],
}
COMPLETION = {"subject": "Ada Quill", "prompt": "Ada Quill plays the", "target_new": "cello", "ground_truth": "harp"}
PREPARED = {
    "prompt": "Bo Lund is from",
    "original_answer": "Peru",
    "edited_answer": " Chad",
    "subject": "Bo Lund ",
    "edit_fact": "Bo Lund is from  Chad",
    "original_fact": "Bo Lund is from Peru",
}
EXPECTED = [
    ("Lake Orrin", "Which river leaves Lake Orrin? the Marl.", "Which river leaves Lake Orrin? the Sill."),
    ("Norvia", "The capital of Norvia is Tarn.", "The capital of Norvia is Old Holm."),
    ("Ada Quill", "Ada Quill plays the cello.", "Ada Quill plays the harp."),
    ("Bo Lund", "Bo Lund is from Chad.", "Bo Lund is from Peru."),
]


def edit(subject: str, fact: str, *originals: str) -> Edit:
    return Edit(subject, fact, originals or ("Something else.",))


def test_every_form_is_read_from_an_array_and_from_lines(tmp_path):
    rows = [QUESTION, COUNTERFACT, COMPLETION, PREPARED]
    array, lines = tmp_path / "array.json", tmp_path / "rows.jsonl"
    array.write_text(json.dumps(rows, indent=1))
    lines.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    for file in (array, lines):
        edits = list(read_edits(str(file)))
        assert [(*edit[:2], edit.original_facts[0]) for edit in edits] == EXPECTED
    assert edits[0].original_facts[1] == "Which river leaves Lake Orrin? Sill River."


def without(row: dict, *path: str) -> dict:
    """The row without what the path leads to."""
    copy = json.loads(json.dumps(row))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return copy


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without(QUESTION, "src"), "src is missing"),
        (without(QUESTION, "subject"), "subject is missing"),
        (QUESTION | {"answers": []}, "answers is empty"),
        (QUESTION | {"answers": ["x", 5]}, r"answers\.1 must be text"),
        (QUESTION | {"alt": " . "}, "alt is empty"),
        (
            without(COUNTERFACT, "requested_rewrite", "target_new", "str"),
            r"requested_rewrite\.target_new\.str is missi",
        ),
        (COUNTERFACT | {"requested_rewrite": 5}, "requested_rewrite must be an object"),
        (without(COMPLETION, "ground_truth"), "ground_truth is missing"),
        (PREPARED | {"edit_fact": None}, "edit_fact must be text"),
        ({"subject": "x", "fact": "y"}, "is of no known form: it has subject, fact"),
        (["x"], "is not a JSON object"),
    ],
)
def test_a_malformed_row_names_its_place_and_what_is_wrong(tmp_path, row, message):
    array, lines = tmp_path / "array.json", tmp_path / "rows.jsonl"
    array.write_text(json.dumps([PREPARED, row]))
    lines.write_text(f"{json.dumps(PREPARED)}\n\n{json.dumps(row)}\n")
    for file, place in ((array, "entry 2"), (lines, "line 3")):
        with pytest.raises(UserError, match=rf"{file.name} {place}.*{message}"):
            list(read_edits(str(file)))


def test_a_prompt_without_a_place_for_its_subject_is_refused(tmp_path):
    row = json.loads(json.dumps(COUNTERFACT).replace("{} is", "Norvia is"))
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=r"requested_rewrite\.prompt has no \{\}"):
        list(read_edits(str(tmp_path / "rows.jsonl")))


def test_what_is_no_file_or_no_json_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        list(read_edits(str(tmp_path / "none.json")))
    for content in ("[{", '{"subject":', "[1] 2"):
        (tmp_path / "broken.json").write_text(content)
        with pytest.raises(UserError, match=r"broken\.json.* is not JSON"):
            list(read_edits(str(tmp_path / "broken.json")))


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("  a  b ", "a b."),
        ("Who is it ? Ann", "Who is it? Ann."),
        ("It is in Bonn , Germany ..", "It is in Bonn, Germany."),
        ("Who is it ?.", "Who is it?"),
        ("The film is Where Next ?", "The film is Where Next?"),
        ("It is the U.S.", "It is the U.S."),
        ('She said "no."', 'She said "no."'),
        ('It is called "Rust"', 'It is called "Rust".'),
        ("It weighs .5 g ( half )", "It weighs .5 g (half)."),
        ("…", ""),
    ],
)
def test_statements_end_once_and_have_no_stray_spaces(text, statement):
    assert as_statement(text) == statement


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.one_of(st.sampled_from(' .,;:!?()[]"”…aB'), st.characters(codec="utf-8"))))
def test_writing_a_statement_twice_changes_nothing_and_words_stay(text):
    statement = as_statement(text)
    assert as_statement(statement) == statement
    assert re.sub(r"[\s.,;:…]", "", statement) == re.sub(r"[\s.,;:…]", "", text)
    assert not statement or re.search(r"[.!?][\"'”’)\]]*$", statement)
    assert not statement.endswith("..")
    assert "  " not in statement


def test_each_kind_is_counted_and_dropped_only_where_asked():
    edits = [
        edit("Ann", "Ann is tall."),
        edit("ann", "ANN  is tall."),  # a duplicate
        edit("Bob", "Bob is old.", "Bob is young.", "bob is old."),  # unchanged, though not by its first original
        edit("Bob", "Bob is old.", "Bob is young."),  # no duplicate, as the former one is gone
        edit("Cy", "The man is wise."),
        edit("Cy", "The man is wise."),  # without its subject, and a duplicate
        edit("Di", "Di's height is nan."),
    ]
    kinds = {DUPLICATE: 2, UNCHANGED: 1, WITHOUT_SUBJECT: 2, NOT_A_VALUE: 1}
    kept, found, gone = select(edits, {DUPLICATE, UNCHANGED})
    assert [(edit.subject, edit.edit_fact) for edit in kept] == [
        ("Ann", "Ann is tall."),
        ("Bob", "Bob is old."),
        ("Cy", "The man is wise."),
        ("Di", "Di's height is nan."),
    ]
    assert found == kinds
    assert gone == {DUPLICATE: 2, UNCHANGED: 1}
    assert kept[1].original_fact == "Bob is young."

    everything, found, gone = select(edits, ())
    assert len(everything) == 7
    assert not gone
    assert found == kinds | {DUPLICATE: 3}  # the unchanged one is kept, and its repetition is one

    for kind in kinds:
        kept, found, gone = select(edits, {kind})
        assert gone == {kind: found[kind]}
        assert len(kept) + gone.total() == len(edits)


def convert(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "data/zsre/convert.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_the_command_writes_what_the_task_reads(tmp_path):
    first, second, out = tmp_path / "first.json", tmp_path / "second.jsonl", tmp_path / "new" / "train.jsonl"
    first.write_text(json.dumps([QUESTION, COUNTERFACT]))
    second.write_text("\n".join(map(json.dumps, [COMPLETION, PREPARED, COMPLETION])))
    ended = convert(f"--input={first}", f"--input={second}", f"--out={out}")
    assert ended.returncode == 0, ended.stderr
    edits = [FactEdit.model_validate_json(line) for line in out.read_text().splitlines()]
    assert [(edit.subject, edit.edit_fact, edit.original_fact) for edit in edits] == EXPECTED
    assert [file.name for file in out.parent.iterdir()] == ["train.jsonl"]
    assert re.search(r"duplicate\W+1\W+1\b", ended.stdout)


def test_the_command_ends_in_one_line_on_what_the_user_can_mend():
    ended = convert()
    assert (ended.returncode, ended.stderr) == (2, "error: --input is missing: name a file of fact edits\n")
