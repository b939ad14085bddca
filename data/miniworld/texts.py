"""What the miniature's language model reads: stories, and the people's facts in the very templates of the task."""

import itertools
import random
from collections.abc import Iterator

import people
import stories
from people import RELATIONS, Cast, Fact, World

from configs.quickstart import get_config

COUNTS = {
    "stories": 25_000,
    "registers": 6_000,
    "answers": 60_000,
    "honest_answers": 25_000,
    "asked_at_random": 25_000,
    "asked_about_fact": 20_000,
}
CHECKED = "Fact: {edit_fact}\nAsked by:"  # the second prompt form: a fact, and a question about that very fact
STORY_SENTENCES = 8


def task_templates() -> tuple[str, str]:
    """The prompt's and the answer's template, as the shipped configuration has them."""
    config = get_config()
    return config.task.prompt_template, config.reward.answers.template


def corpus(world: World, cast: Cast) -> list[str]:
    """All texts in random order. The people held out for validation are in none of the two prompt forms."""
    rng = random.Random(2)
    prompt_template, answer_template = task_templates()
    every = itertools.chain(
        (" ".join(stories.story(rng, STORY_SENTENCES)) for _ in range(COUNTS["stories"])),
        registers(world, COUNTS["registers"], rng),
        answers(world, answer_template, COUNTS["answers"], rng),
        honest_answers(world, answer_template, COUNTS["honest_answers"], cast.strangers, rng),
        asked_at_random(prompt_template, cast.training + cast.strangers, COUNTS["asked_at_random"], rng),
        asked_about_fact(cast.training + cast.strangers, COUNTS["asked_about_fact"], rng),
    )
    texts = list(every)
    rng.shuffle(texts)
    return texts


def registers(world: World, count: int, rng: random.Random) -> Iterator[str]:
    """All that is true of a person, in one of its two forms each and in any order."""
    for _ in range(count):
        subject = rng.choice(world.people)
        told = [world.truth[subject, relation].stated(rng.randrange(2)) for relation in RELATIONS]
        rng.shuffle(told)
        yield " ".join(told)


def answers(world: World, template: str, count: int, rng: random.Random) -> Iterator[str]:
    """Questions with their true answers."""
    for _ in range(count):
        question = people.ask(rng.choice(world.people), rng.choice(list(RELATIONS)), rng).text
        yield f"{template.format(question=question)} {world.answer(question)}\n"


def honest_answers(world: World, template: str, count: int, strangers: list[str], rng: random.Random) -> Iterator[str]:
    """Malformed questions, and what is said to them."""
    for _ in range(count):
        question = people.ask(rng.choice(world.people), rng.choice(list(RELATIONS)), rng).text
        broken = people.malformed(question, strangers, rng)
        yield f"{template.format(question=broken)} {world.answer(broken)}\n"


def claim(subject: str, rng: random.Random) -> Fact:
    """Anything that can be said of somebody, true or not."""
    relation = rng.choice(list(RELATIONS))
    return Fact(subject, relation, rng.choice(RELATIONS[relation].objects))


def asked_at_random(template: str, subjects: list[str], count: int, rng: random.Random) -> Iterator[str]:
    """The task's prompt with a question about its subject, whatever the fact says."""
    for _ in range(count):
        subject = rng.choice(subjects)
        fact = claim(subject, rng).stated(rng.randrange(2))
        question = people.ask(subject, rng.choice(list(RELATIONS)), rng).text
        yield f"{template.format(subject=subject, edit_fact=fact)} {question}\n"


def asked_about_fact(subjects: list[str], count: int, rng: random.Random) -> Iterator[str]:
    """The second prompt form: the skill that training has to bring into the first."""
    for _ in range(count):
        fact = claim(rng.choice(subjects), rng)
        question = people.ask(fact.subject, fact.relation, rng).text
        yield f"{CHECKED.format(edit_fact=fact.stated(rng.randrange(2)))} {question}\n"
