"""Figures of texts alone: how different they are, and whether each is a sentence."""

import pytest

from gfn_jax.evaluation.diversity import distinct_n_grams, self_bleu
from gfn_jax.text.sentences import is_sentence


def test_distinct_n_grams_counts_runs_of_words():
    assert distinct_n_grams(["a b c", "a b d"], 2) == 3 / 4
    assert distinct_n_grams(["a", "b"], 2) == 0


def test_self_bleu_is_1_of_equal_texts_and_falls_with_what_they_share():
    equal, near, far = (
        self_bleu(texts)
        for texts in (
            ["the cat sat on the mat ."] * 3,
            ["the cat sat on the mat .", "the cat sat on a mat .", "the cat lay on the mat ."],
            ["the cat sat on the mat .", "nobody saw what came next .", "we left early for once ."],
        )
    )
    assert equal == pytest.approx(1)
    assert equal > near > far


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (" He walked home.", True),
        ("It cost 3.5 pounds.", True),
        ('He said "no" to it.', True),
        ("He walked home", False),
        ("He walked. Home.", False),
        ('He said "no.', False),
        ("It (was late.", False),
        ("He ran and ran and ran and ran and ran.", False),
        ("the the the.", False),
        ("", False),
        (".", False),
    ],
)
def test_a_sentence_has_one_end_closed_quotes_and_no_loops(text, verdict):
    assert is_sentence(text) == verdict
