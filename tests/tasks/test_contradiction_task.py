"""The contradiction task's data: what is wrong with it is said in one line, and subjects are held out whole."""

import json
import unicodedata

import numpy as np
import pytest
from helpers import MINIATURE, config

from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks import make_task
from gfn_jax.tasks.contradiction import FactEdit, names

GOOD = {"subject": "Ada", "edit_fact": "Ada lives in Rome.", "original_fact": "Ada lives in Oslo."}


def task(path, **overrides):
    settings = {
        "task__name": "contradiction",
        "task__prompt_template": "{subject}: {edit_fact}",
        "task__terminator": "?",
        "data__path": str(path),
        "data__val_prompts": 2,
        "model__name_or_path": "-",
        "reward__nli__name_or_path": "-",
    }
    return make_task(config(**(settings | overrides)))


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        (GOOD | {"subject": " "}, "line 2: the field 'subject' is empty"),
        ({"subject": "Ada"}, "line 2: the field 'edit_fact' is missing; the field 'original_fact' is missing"),
        (GOOD | {"edit_fact": 7}, r"line 2: the field 'edit_fact' must be text \(it is 7\)"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    with pytest.raises(UserError, match=message) as error:
        task(write(tmp_path / "facts.jsonl", [GOOD, line])).load()
    assert "\n" not in str(error.value)


def test_validation_is_about_subjects_that_training_does_not_see(tmp_path):
    rows = [GOOD | {"subject": f"S{index % 5}", "edit_fact": f"fact {index}", "more": 1} for index in range(15)]
    path = write(tmp_path / "facts.jsonl", rows)
    train, validation = task(path, data__val_prompts=4).load()
    assert len(validation) == 6
    assert len(train) == 9
    assert not {edit.subject for edit in train} & {edit.subject for edit in validation}
    again = write(tmp_path / "again.jsonl", rows[::-1])
    assert set(task(again, data__val_prompts=4).load()[1]) == set(validation)
    with pytest.raises(UserError, match="15 facts about 5 subjects; at least one subject must remain"):
        task(path, data__val_prompts=15).load()
    with pytest.raises(UserError, match=r"the subject 'S0' is in data\.path and in data\.val_path"):
        task(path, data__val_path=str(path)).load()


def test_a_subject_is_one_however_it_is_written(tmp_path):
    def write_about(name, subjects):
        rows = [GOOD | {"subject": subject, "edit_fact": f"fact {number}"} for number, subject in enumerate(subjects)]
        return write(tmp_path / name, rows)

    names = [f"Zoë {number}" for number in range(20)]
    twins = [*map(str.upper, names), *(unicodedata.normalize("NFD", name) for name in names)]
    train, validation = task(write_about("both.jsonl", [*names, *twins]), data__val_prompts=15).load()
    assert (len(train), len(validation)) == (45, 15)
    known = {unicodedata.normalize("NFC", edit.subject).casefold() for edit in train}
    assert not known & {unicodedata.normalize("NFC", edit.subject).casefold() for edit in validation}
    held_out = write_about("held_out.jsonl", twins[-2:])
    with pytest.raises(UserError, match=r"the subject 'Zoë 18' is in data\.path and in data\.val_path"):
        task(write_about("train.jsonl", names[:19]), data__val_path=str(held_out)).load()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"task__prompt_template": "{subject} {fact}"},
            r"task\.prompt_template names the field {fact}; there are {edit_",
        ),
        ({"task__prompt_template": "{subject"}, r"task\.prompt_template is not a template"),
        ({"reward__nli__name_or_path": ""}, r"needs an NLI model: set reward\.nli\.name_or_path"),
        ({"task__name": "contradictions"}, "there is no task 'contradictions'; there are contradiction, next_sentence"),
        ({"task__name": "json:loads"}, "'json:loads' is not a subclass"),
        ({"task__name": ":Task"}, "':Task' cannot be imported"),
        ({"task__name": "nowhere:Task"}, "'nowhere:Task' cannot be imported"),
    ],
)
def test_a_task_that_cannot_be_is_named(overrides, message):
    with pytest.raises(UserError, match=message):
        task("-", **overrides)


def test_the_sample_commands_fields_are_the_tasks_own():
    edit = task("-").check_example({"prompt": None, "subject": " Ada", "edit_fact": "Ada lives in Rome. "})
    assert (edit.subject, edit.edit_fact) == ("Ada", "Ada lives in Rome.")
    for fields in ({"prompt": "Ada."}, {"subject": "Ada", "edit_fact": ""}):
        with pytest.raises(UserError, match="needs --subject and --edit_fact, and takes nothing else"):
            task("-").check_example(fields)


def test_the_miniatures_facts_are_of_the_task():
    train, validation = task(MINIATURE / "facts_train.jsonl", data__val_path=str(MINIATURE / "facts_val.jsonl")).load()
    assert len({edit.subject for edit in validation}) >= 12
    assert len(validation) >= 24
    assert not {edit.subject for edit in train} & {edit.subject for edit in validation}


def test_figures_tell_contradicting_from_discriminating_and_from_naming_the_subject(tmp_path):
    path = write(tmp_path / "facts.jsonl", [GOOD, GOOD | {"subject": "Bo"}])
    texts = [" Where does  ADA live?", "Where does Adam live?", "What is the capital?", "where does ada live?", "Ada?"]
    components = {
        "log_contradiction": np.log([0.9, 0.8, 0.7, 0.4, 0.6]),
        "log_original": np.log([0.6, 0.1, 0.9, 0.9, 0.4]),
    }
    figures = task(path).figures(FactEdit(**GOOD), texts, components)
    assert figures == {
        "contradiction_rate": pytest.approx(0.8),
        "discriminates": pytest.approx(0.4),
        "about_subject": pytest.approx(0.6),
        "distinct_contradicting": 4,
    }


@pytest.mark.parametrize(
    ("subject", "text", "is_named"),
    [
        ("C++", "Who made C++?", True),
        ("Zoe\u0308", "Where does ZOË live?", True),
        ("Ada", "Where does Adam live?", False),
        ("New  York", "Is it in New York?", True),
    ],
)
def test_a_subject_is_named_by_whole_words(subject, text, is_named):
    assert names(text, subject) is is_named
