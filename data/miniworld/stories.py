"""The stories of the miniature world: short past-tense texts about people of a small coast.

A story keeps its hero, its hero's friend and its place from sentence to sentence; everything else
is drawn afresh, with unequal chances (`grammar`). So the next sentence depends on the prompt, and
many different ones are right.
"""

import random
import re

from grammar import choose, expand, recogniser

EXPONENT = 1.1  # of the Zipf-like choices

WOMEN = ["Mara", "Lena", "Ida", "Tess", "Nora", "Rosa", "Vera", "Ada", "Ruth", "June"]
MEN = ["Tom", "Ben", "Otto", "Finn", "Carl", "Hugo", "Max", "Paul", "Leo", "Sam"]
PLACES = ["harbour", "market", "mill", "library", "bakery", "station", "lighthouse", "garden", "chapel", "inn"]

RULES = {
    "hero": WOMEN + MEN,
    "friend": WOMEN + MEN,
    "They": ["She", "He"],
    "they": ["she", "he"],
    "their": ["her", "his"],
    "place": PLACES,
    "sentence": [
        "<Who> <act>",
        "<Who> <act> <when>",
        "<Opening>, <who> <act>",
        "The <weather>",
        "<Who> <act> and <act>",
        "The <animal> <animal_act> <where>",
        "<Who> <spoke> that the <weather>",
        "There was <item> <where>",
        "<friend> <friend_act>",
        "Everyone <crowd_act> <where>",
    ],
    "Who": ["<They>", "<hero>", "<hero> and <friend>"],
    "who": ["<they>", "<hero>"],
    "act": [
        "walked to the <place>",
        "bought <item>",
        "waited for <friend>",
        "carried <item> to the <place>",
        "looked for <item> <where>",
        "talked with <friend>",
        "sold <item> to <person>",
        "sat down <where>",
        "wrote a letter to <person>",
        "found <item>",
        "gave <person> <item>",
        "mended <item>",
        "sang for <person>",
        "forgot <item> <where>",
        "drew a picture of the <place>",
        "fed the <animal>",
    ],
    "item": [
        "a <quality> <thing>",
        "the <thing>",
        "<their> <thing>",
        "a <thing> of <stuff>",
        "two <thing>s",
    ],
    "quality": ["small", "plain", "red", "heavy", "new", "broken", "blue", "strange", "cheap", "golden"],
    "thing": ["lamp", "boat", "basket", "book", "coat", "clock", "map", "rope", "drum", "ring", "chair", "kite"],
    "stuff": ["wood", "glass", "silver", "straw", "clay"],
    "person": ["<friend>", "the <trade>", "a child", "<their> <kin>"],
    "trade": ["baker", "captain", "teacher", "miller", "doctor", "painter", "guard"],
    "kin": ["mother", "brother", "sister", "father", "aunt"],
    "where": [
        "at the <place>",
        "near the <place>",
        "by the sea",
        "behind the <place>",
        "on the bridge",
        "in the square",
        "under a tree",
    ],
    "when": [
        "in the morning",
        "before dark",
        "after lunch",
        "on <day>",
        "all day",
        "once more",
        "without a word",
        "in the rain",
    ],
    "day": ["Sunday", "Monday", "Friday", "Tuesday"],
    "Opening": ["Later", "That evening", "The next day", "At noon", "On <day>", "At the <place>", "After a while"],
    "weather": [
        "rain stopped",
        "wind was <strength>",
        "sky was <sky>",
        "sun came out",
        "sea was <strength>",
        "fog stayed <when>",
        "night was cold",
    ],
    "strength": ["strong", "calm", "cold", "loud", "mild"],
    "sky": ["grey", "clear", "dark", "red"],
    "spoke": ["said", "saw", "told <person>", "hoped", "wrote"],
    "animal": ["dog", "cat", "gull", "horse", "goat", "crow"],
    "animal_act": ["slept", "waited", "ran around", "made a noise", "hid", "ate a fish"],
    "friend_act": [
        "was late",
        "laughed",
        "came to the <place>",
        "had <item>",
        "wanted to go home",
        "did not answer",
        "asked for <item>",
    ],
    "crowd_act": ["danced", "talked about <hero>", "was quiet", "waited", "bought <item>"],
}

_SENTENCE = recogniser("<sentence>", RULES)


def story(rng: random.Random, sentences: int) -> list[str]:
    """The sentences of one story, each with its full stop."""
    hero = choose(RULES["hero"], rng, 0.3)
    friend = choose([name for name in RULES["friend"] if name != hero], rng, 0.3)
    pronouns = ("She", "she", "her") if hero in WOMEN else ("He", "he", "his")
    scene = {"hero": hero, "friend": friend, **dict(zip(("They", "they", "their"), pronouns, strict=True))}
    place = choose(PLACES, rng, 0.3)
    told = []
    for index in range(sentences):
        # Two sentences out of three stay at the story's place; the first one names the hero.
        bound = {**scene, "place": place} if rng.random() < 2 / 3 else dict(scene)
        template = "<hero> <act>" if index == 0 else "<sentence>"
        told.append(expand(template, RULES, rng, EXPONENT, bound) + ".")
    return told


def accepts(sentence: str) -> bool:
    """Whether the stories' grammar can produce `sentence` (given with its full stop)."""
    text = sentence.strip()
    return text.endswith(".") and re.fullmatch(_SENTENCE, text[:-1]) is not None
