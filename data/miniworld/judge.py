"""The miniature's NLI model: a DeBERTa-v2 with a tokenizer of its own, trained on pairs of statements."""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

import people
import torch
from fitting import Batch, fit
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, PreTrainedTokenizerFast

LABELS = ["entailment", "neutral", "contradiction"]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
BATCH = 96
MOST_WORDS = 4_000  # more than there are, so that every word, and every name, becomes one token


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every word of `texts` is one token, at a text's start and within it alike."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_WORDS,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    named = dict(zip(("pad_token", "cls_token", "sep_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **named)


def all_statements(subjects: Iterable[str]) -> list[str]:
    """Every statement that can be made about the subjects, and the honest reply."""
    return [people.UNKNOWN] + [
        people.Fact(subject, relation, object_).stated(form)
        for subject in subjects
        for relation, details in people.RELATIONS.items()
        for object_ in details.objects
        for form in (0, 1)
    ]


def new_model(tokenizer: PreTrainedTokenizerFast) -> DebertaV2ForSequenceClassification:
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=112,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=320,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pooler_dropout=0.0,
        pooler_hidden_size=112,
        max_position_embeddings=64,
        type_vocab_size=2,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        initializer_range=0.08,
    )
    return DebertaV2ForSequenceClassification(config)


def train(
    model: DebertaV2ForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    subjects: Sequence[str],
    steps: int,
    seed: int = 0,
) -> DebertaV2ForSequenceClassification:
    rng = random.Random(seed)

    def draw() -> Batch:
        batch = [pair for _ in range(BATCH // 6) for pair in people.pairs(rng.choice(subjects), subjects, rng)]
        texts = [pair.premise for pair in batch], [pair.hypothesis for pair in batch]
        return texts, [LABELS.index(pair.label) for pair in batch]

    return fit(model, tokenizer, draw, steps, 6e-4, "NLI model")


@torch.no_grad()
def examine(model, tokenizer, subjects: Sequence[str], rounds: int = 40) -> dict[str, float]:
    """The share of right labels by kind of pair, both subjects of a pair being among `subjects`."""
    rng = random.Random(1)
    right = defaultdict(list)
    for _ in range(rounds):
        batch = [pair for subject in subjects for pair in people.pairs(subject, subjects, rng)]
        inputs = tokenizer([p.premise for p in batch], [p.hypothesis for p in batch], padding=True, return_tensors="pt")
        predicted = model(**inputs).logits.argmax(-1).tolist()
        for pair, label in zip(batch, predicted, strict=True):
            right[pair.kind].append(LABELS[label] == pair.label)
    return {kind: round(sum(values) / len(values), 4) for kind, values in right.items()}
