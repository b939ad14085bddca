"""The miniature's language model: a byte-level BPE and a GPT-2, trained on given texts."""

import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 1_792  # names are one token each
CONTEXT = 128
BATCH = 32


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
    return torch.tensor(rows, dtype=torch.int32)


def train(tokenizer: PreTrainedTokenizerFast, texts: list[str], steps: int) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=len(tokenizer),
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
    for step in track(range(1, steps + 1), "language model"):
        inputs = rows[torch.randint(len(rows), (BATCH,), generator=order)].long()
        loss = model(inputs, labels=inputs).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 0:
            print(f"language model, step {step} of {steps}: loss {loss.item():.3f}", flush=True)
    return model.eval()
