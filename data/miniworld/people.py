"""The people of the miniature world: who they are, what is true of them, and what one may ask and answer.

Everyone has one true object for each relation. A fact can be said in two ways, asked for in many, and the
answer to a question is one of the two statements. Only well-formed questions about people of this
world have an answer; to any other text the honest reply is "I don't know."
"""

import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from grammar import choose

EXPONENT = 0.5  # of the Zipf-like choice among questions
UNKNOWN = "I don't know."

_ONSETS = ["B", "D", "F", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "V", "W", "Z"]
_MIDDLES = ["abr", "am", "ard", "el", "end", "ilt", "im", "ol", "ond", "or", "ul", "usk"]
_ENDINGS = ["a", "an", "en", "ik", "in", "o", "on", "us"]


class Relation(NamedTuple):
    """`statements` are two; `questions` are pairs of a text and the statement (0 or 1) that answers it."""

    objects: Sequence[str]
    statements: Sequence[str]
    questions: Sequence[tuple[str, int]]


RELATIONS: Mapping[str, Relation] = {
    "home": Relation(
        ["Wexby", "Corran", "Ashford", "Dunmore", "Elling", "Farley", "Hexton", "Kilby", "Morven", "Orley"],
        ["{s} lives in {o}.", "The home of {s} is in {o}."],
        [
            ("where does {s} live", 0),
            ("in which town does {s} live", 0),
            ("where is the home of {s}", 1),
            ("which town does {s} live in", 0),
            ("in which town is the home of {s}", 1),
            ("what is the town where {s} lives", 0),
            ("where can one find the home of {s}", 1),
        ],
    ),
    "trade": Relation(
        ["baker", "doctor", "miller", "painter", "sailor", "teacher", "weaver", "guard", "farmer", "tailor"],
        ["{s} works as a {o}.", "The trade of {s} is that of a {o}."],
        [
            ("what does {s} do for a living", 0),
            ("what is the trade of {s}", 1),
            ("what does {s} work as", 0),
            ("as what does {s} work", 0),
            ("which trade does {s} have", 1),
            ("what work does {s} do", 0),
            ("what kind of trade is that of {s}", 1),
        ],
    ),
    "pet": Relation(
        ["cat", "dog", "goat", "horse", "hen", "pig", "duck", "rabbit", "parrot", "donkey"],
        ["{s} keeps a {o}.", "The animal of {s} is a {o}."],
        [
            ("what does {s} keep", 0),
            ("which animal does {s} keep", 0),
            ("what is the animal of {s}", 1),
            ("what kind of animal does {s} keep", 0),
            ("what animal is kept by {s}", 0),
            ("which animal is that of {s}", 1),
            ("what sort of animal is the one of {s}", 1),
        ],
    ),
    "music": Relation(
        ["flute", "drum", "harp", "violin", "piano", "trumpet", "guitar", "horn", "lute", "cello"],
        ["{s} plays the {o}.", "The instrument of {s} is the {o}."],
        [
            ("what does {s} play", 0),
            ("which instrument does {s} play", 0),
            ("what is the instrument of {s}", 1),
            ("on what does {s} make music", 0),
            ("what instrument is played by {s}", 0),
            ("which is the instrument of {s}", 1),
            ("what kind of instrument is that of {s}", 1),
        ],
    ),
    "food": Relation(
        ["soup", "bread", "cheese", "fish", "rice", "cake", "honey", "beans", "nuts", "plums"],
        ["{s} likes {o} best.", "The favourite food of {s} is {o}."],
        [
            ("what does {s} like best", 0),
            ("what is the favourite food of {s}", 1),
            ("which food does {s} like best", 0),
            ("what does {s} like to eat", 0),
            ("what food is the favourite of {s}", 1),
            ("which is the favourite food of {s}", 1),
            ("what is liked best by {s}", 0),
        ],
    ),
    "birth": Relation(
        ["January", "February", "March", "April", "May", "June", "July", "August", "October", "November"],
        ["{s} was born in {o}.", "The birthday of {s} is in {o}."],
        [
            ("when was {s} born", 0),
            ("in which month was {s} born", 0),
            ("when is the birthday of {s}", 1),
            ("what month was {s} born in", 0),
            ("in which month is the birthday of {s}", 1),
            ("what is the month when {s} was born", 0),
            ("which month is that of the birthday of {s}", 1),
        ],
    ),
    "coat": Relation(
        ["red", "blue", "green", "brown", "grey", "white", "black", "yellow", "purple", "orange"],
        ["{s} wears a {o} coat.", "The coat of {s} is {o}."],
        [
            ("what coat does {s} wear", 0),
            ("what colour is the coat of {s}", 1),
            ("which coat does {s} wear", 0),
            ("what is the colour of the coat of {s}", 1),
            ("which colour has the coat of {s}", 1),
            ("what kind of coat does {s} wear", 0),
            ("in which coat does {s} go out", 0),
        ],
    ),
}

OPENERS = ["", "now, ", "well, ", "tell me, ", "and "]


def names(count: int, seed: int) -> list[str]:
    """`count` different invented names."""
    everyone = ["".join(parts) for parts in itertools.product(_ONSETS, _MIDDLES, _ENDINGS)]
    random.Random(seed).shuffle(everyone)
    return everyone[:count]


class Cast(NamedTuple):
    """Names of people for training and for validation, and of strangers, of whom nothing is known."""

    training: list[str]
    validation: list[str]
    strangers: list[str]

    @classmethod
    def of_the_world(cls) -> "Cast":
        everyone = names(320, seed=0)
        return cls(everyone[16:80], everyone[:16], everyone[80:])

    @property
    def known(self) -> list[str]:
        return self.validation + self.training


def capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


class Fact(NamedTuple):
    subject: str
    relation: str
    object: str

    def stated(self, form: int) -> str:
        return RELATIONS[self.relation].statements[form].format(s=self.subject, o=self.object)


class Question(NamedTuple):
    subject: str
    relation: str
    form: int  # of the statement that answers it
    text: str  # with its question mark


def questions(subject: str, relation: str) -> list[Question]:
    """All well-formed questions, the likeliest core with the likeliest opener first."""
    return [
        Question(subject, relation, form, capitalised(opener + core.format(s=subject)) + "?")
        for core, form in RELATIONS[relation].questions
        for opener in OPENERS
    ]


def ask(subject: str, relation: str, rng: random.Random) -> Question:
    """A question drawn with unequal chances."""
    core, form = choose(RELATIONS[relation].questions, rng, EXPONENT)
    opener = choose(OPENERS, rng, 1.0)
    return Question(subject, relation, form, capitalised(opener + core.format(s=subject)) + "?")


class World:
    """People and the truth about them."""

    def __init__(self, people: Sequence[str]):
        rng = random.Random(0)
        self.people = list(people)
        self.truth = {
            (subject, relation): Fact(subject, relation, rng.choice(RELATIONS[relation].objects))
            for subject in people
            for relation in RELATIONS
        }
        self._asked = {
            question.text: question
            for subject in people
            for relation in RELATIONS
            for question in questions(subject, relation)
        }
        self._stated = {
            Fact(subject, relation, thing).stated(form): (subject, relation)
            for subject in people
            for relation, details in RELATIONS.items()
            for thing in details.objects
            for form in (0, 1)
        }

    def asked(self, text: str) -> Question | None:
        """The well-formed question that `text` is, with white space around it or not, or None."""
        return self._asked.get(text.strip())

    def answer(self, text: str) -> str:
        """The true answer to a question, or the honest one."""
        question = self.asked(text)
        return self.truth[question.subject, question.relation].stated(question.form) if question else UNKNOWN

    def edited(self, subject: str, relation: str, rng: random.Random) -> Fact:
        """A fact that is not true: the subject and relation with another object."""
        true = self.truth[subject, relation].object
        return Fact(subject, relation, rng.choice([o for o in RELATIONS[relation].objects if o != true]))

    def fact_edits(self, subject: str, relations: Sequence[str], rng: random.Random) -> Iterator[dict[str, str]]:
        """Lines of the task's data: one edited fact for each of the relations."""
        for relation in relations:
            form = rng.randrange(2)
            edit, true = self.edited(subject, relation, rng), self.truth[subject, relation]
            yield {"subject": subject, "edit_fact": edit.stated(form), "original_fact": true.stated(form)}

    def contradicts(self, fact: str, text: str) -> bool:
        """Whether a question asks for just what an edited fact is wrong about: its subject and its relation."""
        question = self.asked(text)
        return question is not None and (question.subject, question.relation) == self._stated[fact]


def malformed(question: str, strangers: Sequence[str], rng: random.Random) -> str:
    """A question broken in one of several ways: cut, a word lost, moved, repeated or replaced, a stranger's name."""
    words = question.rstrip("?").split()
    place = rng.randrange(len(words))
    kind = rng.choice(["cut", "cut", "cut", "lost", "moved", "repeated", "replaced", "stranger", "scrambled"])
    if kind == "cut":
        words = words[:place]
    elif kind == "lost":
        del words[place]
    elif kind == "moved":
        words.insert(rng.randrange(len(words)), words.pop(place))
    elif kind == "repeated":
        words.insert(place, words[place])
    elif kind == "replaced":
        words[place] = rng.choice(_all_words())
    elif kind == "stranger":
        words = [rng.choice(strangers) if _is_name(word) else word for word in words]
    else:
        rng.shuffle(words)
    return " ".join(words) + "?"


def _all_words() -> list[str]:
    cores = (core for relation in RELATIONS.values() for core, _ in relation.questions)
    return sorted({word for core in cores for word in core.split() if word != "{s}"})


def _is_name(word: str) -> bool:
    return re.fullmatch(f"({'|'.join(_ONSETS)})({'|'.join(_MIDDLES)})({'|'.join(_ENDINGS)})", word) is not None


class Pair(NamedTuple):
    kind: str
    premise: str
    hypothesis: str
    label: str


def pairs(subject: str, others: Sequence[str], rng: random.Random) -> Iterator[Pair]:
    """One premise about `subject`, and a hypothesis of every kind."""
    relation = rng.choice(list(RELATIONS))
    objects = RELATIONS[relation].objects
    fact = Fact(subject, relation, rng.choice(objects))
    premise = fact.stated(rng.randrange(2))

    def stated(**changes: str) -> str:
        return fact._replace(**changes).stated(rng.randrange(2))

    another_object = rng.choice([o for o in objects if o != fact.object])
    another_relation = rng.choice([name for name in RELATIONS if name != relation])
    its_object = rng.choice(RELATIONS[another_relation].objects)
    somebody = rng.choice([name for name in others if name != subject])
    yield Pair("another object", premise, stated(object=another_object), "contradiction")
    yield Pair("same object", premise, stated(), "entailment")
    yield Pair("another relation", premise, stated(relation=another_relation, object=its_object), "neutral")
    yield Pair("another subject", premise, stated(subject=somebody), "neutral")
    yield Pair("another subject", premise, stated(subject=somebody, object=another_object), "neutral")
    yield Pair("unknown", premise, UNKNOWN, "neutral")
