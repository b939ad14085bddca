"""Contradictory questions with gpt2-large and a DeBERTa-v3-large judge, on four devices.

Half of every batch is replayed, from a Redis server at `replay.url`; `--config.replay.backend=memory` needs none.
`data.path` is what `data/zsre/convert.py` writes, or JSON lines of your own with `subject`, `edit_fact` and
`original_fact`; `reward.nli.name_or_path` is any NLI model of three labels.

The PyTorch system that this reimplements has the question's likelihood at weight 0.2, and a temperature
from 1.0 to 2.0 over 2,000 steps:

    --config.reward.likelihood_weight=0.2 --config.reward.temperature_end=2.0 \
    --config.reward.temperature_horizon=2000 --config.reward.allow_flat_target=True

This is not the default: a likelihood to the power 0.2 / 2 is nearly flat over token strings, and no NLI
score makes up for it, so that whoever really samples from that target emits random tokens.
"""

from gfn_jax.config.base import base


def get_config():
    config = base()
    config.task.name = "contradiction"
    config.task.prompt_template = "Subject: {subject}\nFact: {edit_fact}\nQuestion:"
    config.task.terminator = "?"
    config.task.bans.sentence_end = r"[!…]"  # full stops may be part of names
    config.data.path = "data/zsre/train.jsonl"
    config.data.prompt_buckets = (32, 64, 96, 128)
    config.model.name_or_path = "gpt2-large"
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.model.lora.rank = 16
    config.model.lora.alpha = 32.0
    config.model.lora.targets = ("attn.c_attn", "attn.c_proj")
    config.sampling.samples_per_prompt = 8
    config.sampling.min_len = 5
    config.sampling.max_len = 25
    config.sampling.temperature_low = 0.7
    config.sampling.temperature_high = 1.5
    config.sampling.temperature_prob = 0.5
    config.reward.temperature_end = 1.0
    config.reward.temperature_horizon = 0
    config.reward.contradiction_weight = 4.0
    config.reward.nli.name_or_path = "MoritzLaurer/DeBERTa-v3-large-mnli-fever-anli-ling-wanli"
    config.reward.nli.device = "cuda:0"
    config.reward.nli.max_length = 256
    config.replay.backend = "redis"
    config.replay.fraction = 0.5
    config.replay.sampling = "reward"
    config.replay.capacity = 128
    config.train.steps = config.train.decay_steps = 2_000
    config.train.prompts_per_step = 32
    config.train.microbatch_prompts = 4  # on one device it accumulates 8 gradients
    config.train.learning_rate = 1e-4
    config.train.pipeline_depth = 1
    config.eval.prompts_per_batch = 16
    return config.lock()
