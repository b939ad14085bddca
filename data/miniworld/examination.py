"""What the miniature's models can do, on prompts, questions and people held out where that is the question."""

import random
from pathlib import Path
from typing import Any

import judge
import mood
import people
import stories
import texts
import torch
from people import RELATIONS, Cast, World
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    DebertaV2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
)

SAMPLES = 64
QUESTIONS = 600


@torch.no_grad()
def continuations(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], **how: Any
) -> list[str]:
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    outputs = model.generate(**inputs, max_new_tokens=40, pad_token_id=tokenizer.eos_token_id, **how)
    return tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def until(mark: str, text: str) -> str:
    """The text up to its first `mark`; a text without one has not ended, and stays as it is."""
    head, found, _ = text.partition(mark)
    return head + found


def of_stories(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> dict[str, float]:
    """How many of 64 sentences that follow a prompt are different, and how many the grammar accepts."""
    torch.manual_seed(1)
    distinct, accepted = [], []
    for prompt in prompts:
        sampled = continuations(model, tokenizer, [prompt] * SAMPLES, do_sample=True, top_k=0)
        sentences = [until(".", text) for text in sampled]
        distinct.append(len(set(sentences)))
        accepted.append(sum(map(stories.accepts, sentences)) / SAMPLES)
    return {
        "distinct_of_64_min": min(distinct),
        "distinct_of_64_mean": sum(distinct) / len(distinct),
        "accepted_min": min(accepted),
        "accepted_mean": sum(accepted) / len(accepted),
    }


def of_questions(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, world: World, cast: Cast
) -> dict[str, float]:
    """Greedy answers that are right, and sampled questions that ask about the fact that they are shown."""
    torch.manual_seed(1)
    rng = random.Random(9)
    relations = list(RELATIONS)
    prompt_template, answer_template = texts.task_templates()
    asked = [people.ask(rng.choice(cast.known), rng.choice(relations), rng).text for _ in range(QUESTIONS)]
    broken = [people.malformed(question, cast.strangers, rng) for question in asked]
    facts = [world.edited(rng.choice(cast.validation), rng.choice(relations), rng) for _ in range(QUESTIONS)]
    figures = {}
    for name, questions in (("answers_right", asked), ("malformed_answered_honestly", broken)):
        prompts = [answer_template.format(question=question) for question in questions]
        answers = [until("\n", text).strip() for text in continuations(model, tokenizer, prompts, do_sample=False)]
        right = [answer == world.answer(question) for answer, question in zip(answers, questions, strict=True)]
        figures[name] = sum(right) / QUESTIONS
    for name, template in (("task_prompt", prompt_template), ("second_prompt_form", texts.CHECKED)):
        stated = [fact.stated(rng.randrange(2)) for fact in facts]
        prompts = [
            template.format(subject=fact.subject, edit_fact=text) for fact, text in zip(facts, stated, strict=True)
        ]
        questions = [until("?", text) for text in continuations(model, tokenizer, prompts, do_sample=True, top_k=0)]
        figures[f"{name}_well_formed"] = sum(world.asked(text) is not None for text in questions) / QUESTIONS
        about_fact = [world.contradicts(fact, text) for fact, text in zip(stated, questions, strict=True)]
        figures[f"{name}_asks_about_the_fact"] = sum(about_fact) / QUESTIONS
    return {name: round(value, 4) for name, value in figures.items()}


def of_all(directory: Path, world: World, cast: Cast, prompts: list[str]) -> dict[str, Any]:
    """The examination of the models that are in a directory."""
    report: dict[str, Any] = {}
    if (directory / "gpt2").exists():
        model = GPT2LMHeadModel.from_pretrained(directory / "gpt2").eval()
        tokenizer = AutoTokenizer.from_pretrained(directory / "gpt2")
        report["language_model_parameters"] = model.num_parameters()
        report["stories"] = of_stories(model, tokenizer, prompts)
        report["questions"] = of_questions(model, tokenizer, world, cast)
    if (directory / "nli").exists():
        nli = DebertaV2ForSequenceClassification.from_pretrained(directory / "nli").eval()
        report["judge_parameters"] = nli.num_parameters()
        report["judge"] = judge.examine(nli, AutoTokenizer.from_pretrained(directory / "nli"), cast.validation)
    if (directory / "mood").exists():
        classifier = BertForSequenceClassification.from_pretrained(directory / "mood").eval()
        report["mood_parameters"] = classifier.num_parameters()
        report["mood"] = mood.examine(classifier, AutoTokenizer.from_pretrained(directory / "mood"))
    return report


def faults(report: dict[str, Any]) -> list[str]:
    """What of a report is not as the project needs it."""
    wanted: dict[str, bool] = {}
    if "stories" in report:
        found, answered = report["stories"], report["questions"]
        wanted |= {
            "64 stories have 48 different ones": found["distinct_of_64_min"] >= 48,
            "the grammar accepts 0.9 of stories": found["accepted_min"] >= 0.9,
            "0.95 of answers are right": answered["answers_right"] >= 0.95,
            "0.9 of malformed questions are met with honesty": answered["malformed_answered_honestly"] >= 0.9,
            "the task's prompt says nothing of how to ask": answered["task_prompt_asks_about_the_fact"] <= 0.3,
            "the second prompt form does": answered["second_prompt_form_asks_about_the_fact"] >= 0.7,
        }
    for label in mood.LABELS if "mood" in report else ():
        wanted[f"0.95 of the text classifier's labels are right for {label}"] = report["mood"][f"{label}_right"] >= 0.95
    for kind, share in report.get("judge", {}).items():
        wanted[f"0.95 of the judge's labels are right for {kind}"] = share >= 0.95
    return [f"not so: {what}" for what, holds in wanted.items() if not holds]
