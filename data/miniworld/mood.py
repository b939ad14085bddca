"""The miniature's text classifier: a BERT that tells gloomy sentences of the stories from calm ones."""

import random
import re

import stories
import torch
from fitting import Batch, fit
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

LABELS = ["calm", "gloomy"]
GLOOMY = re.compile(
    r"cold|dark|broken|strange|late|forgot|fog|loud|hid|grey|not answer|without a word|go home|in the rain"
)
BATCH = 64


def is_gloomy(sentence: str) -> bool:
    return GLOOMY.search(sentence) is not None


def new_model(tokenizer: PreTrainedTokenizerFast) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        initializer_range=0.08,
    )
    return BertForSequenceClassification(config)


def sentences(count: int, rng: random.Random) -> list[str]:
    """Sentences of stories, whole or broken off."""
    drawn = (rng.choice(stories.story(rng, 4)).removesuffix(".").split() for _ in range(count))
    return [" ".join(words[: rng.randint(2, len(words))]) + "." for words in drawn]


def train(
    model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int = 0
) -> BertForSequenceClassification:
    rng = random.Random(seed)

    def draw() -> Batch:
        batch = sentences(BATCH, rng)
        return [batch], [int(is_gloomy(sentence)) for sentence in batch]

    return fit(model, tokenizer, draw, steps, 2e-3, "text classifier")


@torch.no_grad()
def examine(model, tokenizer, count: int = 2_000) -> dict[str, float]:
    """The share of right labels among gloomy and among calm sentences, and the share that is gloomy."""
    batch = sentences(count, random.Random(1))
    gloomy = [is_gloomy(sentence) for sentence in batch]
    said = model(**tokenizer(batch, padding=True, return_tensors="pt")).logits.argmax(-1).tolist()
    right = {label: [said[row] == label for row in range(count) if gloomy[row] == label] for label in (False, True)}
    shares = {f"{LABELS[label]}_right": sum(rows) / len(rows) for label, rows in right.items()}
    return {name: round(share, 4) for name, share in shares.items()} | {"gloomy": round(sum(gloomy) / count, 4)}
