"""The same training step in PyTorch, with `transformers` and `peft`: as it is commonly written, and at its best.

Both train a language model with LoRA on the modified SubTB objective with lambda = 1 and the frozen model's tempered
likelihood as reward. Prompts are padded on the left; a continuation has at least 0 tokens.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Token rows padded on the left, and the mask of what is no padding."""

    tokens: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def padded(cls, rows: Sequence[Sequence[int]]) -> "Prompts":
        longest = max(map(len, rows))
        tokens = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return cls(tokens, mask)

    def inputs(self) -> dict[str, torch.Tensor]:
        """What the model takes: without positions, it would count the padding."""
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": self.tokens, "attention_mask": self.mask, "position_ids": positions}

    def followed_by(self, tokens: torch.Tensor) -> "Prompts":
        return Prompts(torch.cat([self.tokens, tokens], 1), torch.cat([self.mask, torch.ones_like(tokens)], 1))

    def repeated(self, times: int) -> "Prompts":
        return Prompts(self.tokens.repeat_interleave(times, 0), self.mask.repeat_interleave(times, 0))

    def apart(self) -> list["Prompts"]:
        """Each of them alone, without padding."""
        rows = zip(self.tokens, self.mask.bool(), strict=True)
        return [Prompts.padded([tokens[mask].tolist()]) for tokens, mask in rows]


class TorchPolicy(abc.ABC):
    """What both have: the model, the masks, the reward, the loss and the optimiser."""

    def __init__(
        self, directory: Path, *, samples: int, length: int, terminator: int, dtype: torch.dtype, microbatch: int
    ):
        """`directory` holds `model`, the PEFT adapter `adapter` to begin with, and `banned.npy`.

        Weights are in `dtype` and on PyTorch's default device, the adapter in float32; `microbatch` prompts have their
        gradient computed at once, where that is a choice.
        """
        torch.manual_seed(0)
        self.dtype, device = dtype, torch.get_default_device()
        model = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=dtype)
        model.to(device=device).eval()  # pyright: ignore[reportCallIssue]
        self.model = PeftModel.from_pretrained(model, directory / "adapter", is_trainable=True).eval()
        given, loaded = load_file(directory / "adapter" / "adapter_model.safetensors"), self.adapter()
        if given.keys() != loaded.keys() or not all(torch.equal(given[name], loaded[name].cpu()) for name in given):
            raise ValueError("PEFT did not load the adapter that it was given, and says nothing of it")
        self.parameters = [each for each in self.model.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0)
        self.is_banned_V = torch.from_numpy(np.load(directory / "banned.npy")).to(device)
        self.samples, self.length, self.terminator, self.microbatch = samples, length, terminator, microbatch

    def autocast(self) -> torch.autocast:
        """In half precision the adapter's products are of that too; PEFT alone computes them in float32."""
        return torch.autocast(torch.get_default_device().type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def train_step(self, prompts: Prompts, temperature: float) -> float:
        """One optimiser step; the loss."""
        with self.autocast():
            loss = self.accumulate_gradient(prompts, temperature)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def adapter(self) -> dict[str, torch.Tensor]:
        """The adapter as PEFT stores it."""
        return {name: values.contiguous() for name, values in get_peft_model_state_dict(self.model).items()}

    @abc.abstractmethod
    def accumulate_gradient(self, prompts: Prompts, temperature: float) -> float:
        """Samples, and adds the gradient of the mean loss over prompts; that loss."""

    @abc.abstractmethod
    def evaluate(
        self, prompts: Prompts, tokens_NxL: torch.Tensor, length_N: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """log pi of the tokens [N, L], log R of the states [N, T] and the loss of given trajectories."""

    def masked(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float().masked_fill(self.is_banned_V, -math.inf)

    @torch.no_grad()
    def log_r(self, prompts: Prompts, tokens_NxL, length_N, temperature: float) -> torch.Tensor:
        """log p_frozen(y_1 .. y_t ⊤ | prompt) / temperature of all states that are reached, [N, T]."""
        with self.model.disable_adapter():
            log_p = torch.log_softmax(self.all_logits(prompts, tokens_NxL).float(), -1)
        log_next = log_p[:, :-1].gather(2, tokens_NxL[..., None])[..., 0]
        log_next = torch.where(torch.arange(tokens_NxL.shape[1]) < length_N[:, None], log_next, 0.0)
        return (cumulated(log_next) + log_p[..., self.terminator]) / temperature

    def all_logits(self, prompts: Prompts, tokens_NxL: torch.Tensor) -> torch.Tensor:
        """The logits [N, T, V] of all states of continuations, by one pass."""
        whole = prompts.followed_by(tokens_NxL)
        return self.model(**whole.inputs(), logits_to_keep=tokens_NxL.shape[1] + 1).logits

    def loss(self, log_pf_NxL, log_pterm_NxT, log_r_NxT, length_N) -> torch.Tensor:
        """Modified SubTB, lambda = 1: the mean over pairs of a trajectory's states of (g_j - g_i)^2."""
        is_state = torch.arange(log_r_NxT.shape[1]) <= length_N[:, None]
        g = torch.where(is_state, log_r_NxT - log_pterm_NxT - cumulated(log_pf_NxL), 0.0)
        states = is_state.sum(1)
        # The sum over pairs of squared differences is the count times the sum of squared deviations.
        mean = g.sum(1) / states
        squares = states * torch.where(is_state, g - mean[:, None], 0.0).square().sum(1)
        pairs = states * (states - 1) / 2
        return (squares.view(-1, self.samples).sum(1) / pairs.view(-1, self.samples).sum(1).clamp(min=1)).mean()


class TorchAsWritten(TorchPolicy):
    """Prompt by prompt; tokens drawn one by one from a cached decode through which gradients flow."""

    def accumulate_gradient(self, prompts, temperature):
        total = 0.0
        for prompt in prompts.apart():
            repeated = prompt.repeated(self.samples)
            tokens, lengths, log_pf, log_pterm = self.roll_out(repeated)
            log_r = self.log_r(repeated, tokens, lengths, temperature)
            loss = self.loss(log_pf, log_pterm, log_r, lengths) / len(prompts.tokens)
            loss.backward()
            total += loss.item()
        return total

    def roll_out(self, prompts: Prompts, given=None):
        """Draws, or takes as given, every token; log-probabilities come from the decode's own graph."""
        rows = len(prompts.tokens)
        output = self.model(**prompts.inputs(), use_cache=True, logits_to_keep=1)
        running = torch.ones(rows, dtype=torch.bool)
        lengths = torch.zeros(rows, dtype=torch.long)
        drawn, log_pf, log_pterm = [], [], []
        for step in range(self.length):
            log_p = torch.log_softmax(self.masked(output.logits[:, -1]), -1)
            log_pterm.append(torch.where(running, log_p[:, self.terminator], 0.0))
            tokens = torch.multinomial(log_p.exp(), 1)[:, 0] if given is None else given(step)
            running = running & (tokens != self.terminator)
            lengths = lengths + running
            log_pf.append(torch.where(running, log_p.gather(1, tokens[:, None])[:, 0], 0.0))
            drawn.append(torch.where(running, tokens, self.terminator))
            if given is None and not running.any():
                break
            prompts = prompts.followed_by(drawn[-1][:, None])
            last = {name: values[:, -1:] for name, values in prompts.inputs().items()} | {
                "attention_mask": prompts.mask
            }
            output = self.model(**last, past_key_values=output.past_key_values, use_cache=True)
        log_pterm.append(torch.zeros(rows))  # at the maximum length the stop is forced; before it, nothing gets there
        return torch.stack(drawn, 1), lengths, torch.stack(log_pf, 1), torch.stack(log_pterm, 1)

    def evaluate(self, prompts, tokens_NxL, length_N, temperature):
        repeated = prompts.repeated(self.samples)
        tokens_NxL = torch.where(torch.arange(self.length) < length_N[:, None], tokens_NxL, self.terminator)
        tokens, lengths, log_pf, log_pterm = self.roll_out(repeated, given=lambda step: tokens_NxL[:, step])
        log_r = self.log_r(repeated, tokens, lengths, temperature)
        return log_pf, log_r, self.loss(log_pf, log_pterm, log_r, lengths)


class TorchAtBest(TorchPolicy):
    """All prompts at once: `generate` without gradients, then one teacher-forced pass with them."""

    def accumulate_gradient(self, prompts, temperature):
        tokens, lengths = self.generate(prompts)
        total = 0.0
        for rows in torch.arange(len(prompts.tokens)).split(self.microbatch):
            samples = (rows[:, None] * self.samples + torch.arange(self.samples)).flatten()
            some = Prompts(prompts.tokens[rows], prompts.mask[rows])
            longest = max(1, int(lengths[samples].max()))  # nothing is computed behind it
            _, _, loss = self.evaluate(some, tokens[samples, :longest], lengths[samples], temperature)
            loss = loss * len(rows) / len(prompts.tokens)
            loss.backward()
            total += loss.item()
        return total

    @torch.no_grad()
    def generate(self, prompts: Prompts):
        policy = self

        class Masks(LogitsProcessor):
            def __call__(self, input_ids, scores):
                return policy.masked(scores)

        drawn = self.model.generate(
            input_ids=prompts.tokens,
            attention_mask=prompts.mask,
            do_sample=True,
            top_k=0,
            num_return_sequences=self.samples,
            max_new_tokens=self.length,
            eos_token_id=self.terminator,
            pad_token_id=self.terminator,
            logits_processor=LogitsProcessorList([Masks()]),
        )[:, prompts.tokens.shape[1] :]
        drawn = torch.nn.functional.pad(drawn, (0, self.length - drawn.shape[1]), value=self.terminator)
        is_end = drawn == self.terminator
        return drawn, torch.where(is_end.any(1), is_end.int().argmax(1), self.length)

    def evaluate(self, prompts, tokens_NxL, length_N, temperature):
        repeated = prompts.repeated(self.samples)
        log_p = torch.log_softmax(self.masked(self.all_logits(repeated, tokens_NxL)), -1)
        log_pf = log_p[:, :-1].gather(2, tokens_NxL[..., None])[..., 0]
        log_pf = torch.where(torch.arange(tokens_NxL.shape[1]) < length_N[:, None], log_pf, 0.0)
        is_open = torch.arange(tokens_NxL.shape[1] + 1) < self.length
        log_pterm = torch.where(is_open, log_p[..., self.terminator], 0.0)
        log_r = self.log_r(repeated, tokens_NxL, length_N, temperature)
        return log_pf, log_r, self.loss(log_pf, log_pterm, log_r, length_N)


def cumulated(log_pf_NxL: torch.Tensor) -> torch.Tensor:
    """[N, L] -> [N, T]: the sum of what stands before each state."""
    return torch.nn.functional.pad(log_pf_NxL.cumsum(1), (1, 0))
