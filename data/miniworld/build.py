"""Builds the miniature world: its prompts, its tokenizer and its language model.

    python data/miniworld/build.py [--out data/miniworld] [--steps 1200] [--examine]

Everything is written by the grammars beside this file and trained from scratch, about ten minutes
on two CPU cores. The models are ordinary Hugging Face directories.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import stories
import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 640
CONTEXT = 128
TRAINING_STORIES = 40_000
HELD_OUT_STORIES = 500
PROMPTS = 1_000
SENTENCES = 8  # in a training story


def many_stories(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(stories.story(rng, SENTENCES)) for _ in range(count)]


def prompts(count: int, seed: int) -> list[str]:
    """The beginnings of `count` stories, one to three sentences each."""
    rng = random.Random(seed)
    return [" ".join(stories.story(rng, rng.randint(1, 3))) for _ in range(count)]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE, of the same construction as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT
    )


def training_rows(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Rows of CONTEXT tokens, each from the beginning of a text on, continued by the next ones."""
    end = tokenizer.eos_token_id
    encoded = [[*ids, end] for ids in tokenizer(texts)["input_ids"]]
    rows = []
    for first in range(len(encoded)):
        row: list[int] = []
        for ids in encoded[first : first + CONTEXT]:
            row += ids
            if len(row) >= CONTEXT:
                rows.append(row[:CONTEXT])
                break
    return torch.tensor(rows)


def train_language_model(tokenizer, texts: list[str], steps: int, batch: int = 48) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=128,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)
    rows = training_rows(tokenizer, texts)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps, pct_start=0.08)
    order = torch.Generator().manual_seed(0)
    model.train()
    for _ in track(range(steps), "language model"):
        inputs = rows[torch.randint(len(rows), (batch,), generator=order)]
        loss = model(inputs, labels=inputs).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def examine(model: GPT2LMHeadModel, tokenizer, held_out: list[str], prompts: list[str]) -> dict:
    """Held-out perplexity, and what 64 samples for each prompt are like."""
    rows = training_rows(tokenizer, held_out)
    loss = model(rows, labels=rows).loss.item()
    torch.manual_seed(1)
    stop = tokenizer.convert_tokens_to_ids(".")
    distinct, accepted = [], []
    for prompt in track(prompts, "samples"):
        inputs = tokenizer(prompt, return_tensors="pt")["input_ids"]
        outputs = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=True,
            top_k=0,
            max_new_tokens=40,
            num_return_sequences=64,
            eos_token_id=stop,
            pad_token_id=stop,
        )
        # A sample that never stops has no full stop, and the grammar does not accept it.
        texts = [
            text.partition(".")[0] + text.partition(".")[1]
            for text in tokenizer.batch_decode(outputs[:, inputs.shape[1] :])
        ]
        distinct.append(len(set(texts)))
        accepted.append(sum(map(stories.accepts, texts)) / len(texts))
    return {
        "perplexity": round(math.exp(loss), 4),
        "distinct_of_64_min": min(distinct),
        "distinct_of_64_mean": sum(distinct) / len(distinct),
        "accepted_min": min(accepted),
        "accepted_mean": sum(accepted) / len(accepted),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=1200, help="optimiser steps of the language model")
    parser.add_argument("--examine", action="store_true", help="build nothing; examine what is in --out")
    args = parser.parse_args()
    torch.manual_seed(0)
    started = time.monotonic()

    if not args.examine:
        args.out.mkdir(parents=True, exist_ok=True)
        prompt_texts = prompts(PROMPTS, seed=1)
        (args.out / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompt_texts))
        texts = many_stories(TRAINING_STORIES, seed=2)
        tokenizer = train_tokenizer(texts)
        model = train_language_model(tokenizer, texts, args.steps)
        tokenizer.save_pretrained(args.out / "gpt2")
        model.save_pretrained(args.out / "gpt2")
        print(f"built in {(time.monotonic() - started) / 60:.1f} minutes")

    model = GPT2LMHeadModel.from_pretrained(args.out / "gpt2").eval()
    tokenizer = AutoTokenizer.from_pretrained(args.out / "gpt2")
    report = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    report |= examine(model, tokenizer, many_stories(HELD_OUT_STORIES, seed=3), prompts(12, seed=4))
    if report["distinct_of_64_min"] < 48 or report["accepted_min"] < 0.9:
        raise SystemExit(f"the miniature is not as varied, or not as grammatical, as it must be: {report}")
    (args.out / "build.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
