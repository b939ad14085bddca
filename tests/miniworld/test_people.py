"""The miniature's people: every statement and question means one thing, so that the truth can be known."""

import random

from people import RELATIONS, UNKNOWN, Cast, Fact, World, malformed, pairs, questions

CAST = Cast.of_the_world()
WORLD = World(CAST.known)


def test_every_statement_and_every_question_means_one_thing():
    facts = [
        Fact(subject, relation, thing)
        for subject in CAST.known[:7]
        for relation, details in RELATIONS.items()
        for thing in details.objects
    ]
    statements = [fact.stated(form) for fact in facts for form in (0, 1)]
    assert len(set(statements)) == len(statements)
    asked = [question for name in CAST.known[:7] for relation in RELATIONS for question in questions(name, relation)]
    assert len({question.text for question in asked}) == len(asked)
    for question in asked:
        assert WORLD.asked(f" {question.text}") == question
        assert WORLD.answer(question.text) == WORLD.truth[question.subject, question.relation].stated(question.form)


def test_edits_are_false_and_only_their_own_questions_contradict_them():
    rng = random.Random(0)
    for edit in WORLD.fact_edits(CAST.known[3], list(RELATIONS), rng):
        assert edit["edit_fact"] != edit["original_fact"]
        hits = {
            (question.subject, question.relation)
            for name in CAST.known[:9]
            for relation in RELATIONS
            for question in questions(name, relation)
            if WORLD.contradicts(edit["edit_fact"], question.text)
        }
        ((subject, relation),) = hits
        true = WORLD.truth[subject, relation]
        assert subject == edit["subject"]
        assert edit["original_fact"] in (true.stated(0), true.stated(1))


def test_broken_questions_that_mean_nothing_are_answered_honestly():
    rng = random.Random(0)
    texts = [malformed(questions(CAST.known[0], "home")[0].text, CAST.strangers, rng) for _ in range(200)]
    answers = [WORLD.answer(text) for text in texts]
    assert answers.count(UNKNOWN) > 150
    assert all((WORLD.asked(text) is None) == (answer == UNKNOWN) for text, answer in zip(texts, answers, strict=True))


def test_people_are_in_one_part_of_the_cast():
    parts = [set(CAST.training), set(CAST.validation), set(CAST.strangers)]
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_pairs_are_what_their_kind_says():
    for pair in pairs("Wusken", ["Wusken", "Timon"], random.Random(0)):
        same_subject = "Wusken" in pair.hypothesis
        assert same_subject == (pair.kind not in ("another subject", "unknown"))
        assert (pair.label == "contradiction") == (pair.kind == "another object")
