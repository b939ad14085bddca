"""Builds the miniature world: its data, its language model, its NLI model and its text classifier.

    python data/miniworld/build.py [--out data/miniworld] [--only language_model|judge|mood] [--examine]

Everything is written by the grammars beside this file and trained from scratch, within half an hour on
two CPU cores. The models are ordinary Hugging Face directories. Ends with an examination, whose
figures go into build.json; a miniature that falls short of what the project needs of it is an error.
"""

import argparse
import json
import random
import time
from pathlib import Path

import examination
import judge
import language_model
import mood
import stories
import texts
import torch
from people import RELATIONS, Cast, World

PROMPTS = 1_000
VALIDATION_FACTS = 2  # about each person
LANGUAGE_MODEL_STEPS = 2_000
JUDGE_STEPS = 5_000
MOOD_SENTENCES = 20_000  # that the classifier's tokenizer is made of
MOOD_STEPS = 1_500


def story_prompts(count: int, seed: int) -> list[str]:
    """The beginnings of `count` stories, one to three sentences each."""
    rng = random.Random(seed)
    return [" ".join(stories.story(rng, rng.randint(1, 3))) for _ in range(count)]


def write_data(out: Path, cast: Cast, world: World) -> None:
    (out / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in story_prompts(PROMPTS, seed=1)))
    rng = random.Random(6)
    relations = list(RELATIONS)
    edits = {
        "facts_train.jsonl": [edit for name in cast.training for edit in world.fact_edits(name, relations, rng)],
        "facts_val.jsonl": [
            edit
            for name in cast.validation
            for edit in world.fact_edits(name, rng.sample(relations, VALIDATION_FACTS), rng)
        ],
    }
    for name, lines in edits.items():
        (out / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", choices=["language_model", "judge", "mood"], help="train one of the models alone")
    parser.add_argument("--examine", action="store_true", help="build nothing; examine what is in --out")
    args = parser.parse_args()
    torch.manual_seed(0)
    cast, seconds = Cast.of_the_world(), {}
    world = World(cast.known)
    args.out.mkdir(parents=True, exist_ok=True)

    if not args.examine:
        write_data(args.out, cast, world)
    if not args.examine and args.only in (None, "language_model"):
        started = time.monotonic()
        corpus = texts.corpus(world, cast)
        tokenizer = language_model.train_tokenizer(corpus)
        model = language_model.train(tokenizer, corpus, LANGUAGE_MODEL_STEPS)
        tokenizer.save_pretrained(args.out / "gpt2")
        model.save_pretrained(args.out / "gpt2")
        seconds["language_model_seconds"] = round(time.monotonic() - started)
    if not args.examine and args.only in (None, "judge"):
        started = time.monotonic()
        subjects = cast.training + cast.strangers
        tokenizer = judge.train_tokenizer(judge.all_statements(subjects + cast.validation))
        model = judge.train(judge.new_model(tokenizer), tokenizer, subjects, JUDGE_STEPS)
        tokenizer.save_pretrained(args.out / "nli")
        model.save_pretrained(args.out / "nli")
        seconds["judge_seconds"] = round(time.monotonic() - started)
    if not args.examine and args.only in (None, "mood"):
        started = time.monotonic()
        tokenizer = judge.train_tokenizer(mood.sentences(MOOD_SENTENCES, random.Random(7)))
        model = mood.train(mood.new_model(tokenizer), tokenizer, MOOD_STEPS)
        tokenizer.save_pretrained(args.out / "mood")
        model.save_pretrained(args.out / "mood")
        seconds["mood_seconds"] = round(time.monotonic() - started)

    report = {**seconds, **examination.of_all(args.out, world, cast, story_prompts(12, seed=4))}
    print(json.dumps(report, indent=2))
    if faults := examination.faults(report):
        raise SystemExit("the miniature falls short: " + "; ".join(faults))
    old = json.loads((args.out / "build.json").read_text()) if (args.out / "build.json").exists() else {}
    times = {name: old[name] for name in ("language_model_seconds", "judge_seconds", "mood_seconds") if name in old}
    (args.out / "build.json").write_text(json.dumps(times | report, indent=2) + "\n")


if __name__ == "__main__":
    main()
