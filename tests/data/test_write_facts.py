"""Fact edits about subjects that a language model named."""

import sys
from pathlib import Path

import pytest

from gfn_jax.tasks.contradiction import FactEdit

sys.path.append(str(Path(__file__).parents[2] / "data" / "smollm2"))

import write_facts

FACT = FactEdit(subject="Colt", edit_fact="The maker of Colt is Nokia.", original_fact="The maker of Colt is Smith.")


def said(*names: str, known: tuple[str, ...] = ("Colt", "Peter Ward")) -> list[FactEdit]:
    return list(write_facts.with_new_subjects([FACT], [[f" {name}\nmore" for name in names]], known))


def test_both_facts_are_said_of_the_new_subject():
    assert said("Webley Mk I") == [
        FactEdit(
            subject="Webley Mk I",
            edit_fact="The maker of Webley Mk I is Nokia.",
            original_fact="The maker of Webley Mk I is Smith.",
        )
    ]


@pytest.mark.parametrize("name", ["PETER  Ward", "Colt", "no name", "Is it?", "A", "Wo said: this", "Bombs of Troy"])
def test_known_subjects_and_what_is_no_name_are_left_out(name):
    assert said(name) == []


def test_nothing_is_said_twice():
    assert len(said("Webley", "WEBLEY", "Enfield")) == 2
