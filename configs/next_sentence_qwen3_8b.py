"""Next-sentence continuation with Qwen3-8B in bfloat16, on one large GPU or several.

The weights come from the Hugging Face hub. `data.path` is what
`data/openwebtext/generate_prompts.py` writes, or any file with a prompt on each line. A GPU of 80 GB holds it; on
several, `--config.mesh.data=4` splits the prompts and `--config.mesh.model=4` the weights (its 8 key-value heads
divide). On smaller ones: `--config.model.quantize=nf4`.
"""

from gfn_jax.config.base import base


def get_config():
    config = base()
    config.data.path = "data/openwebtext/prompts.txt"
    config.model.name_or_path = "Qwen/Qwen3-8B"
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.model.lora.rank = 64
    config.model.lora.alpha = 16.0
    config.sampling.samples_per_prompt = 8
    config.sampling.min_len = 1
    config.sampling.max_len = 30
    config.sampling.temperature_low = 0.5
    config.sampling.temperature_high = 2.0
    config.sampling.temperature_prob = 0.666
    config.reward.temperature_end = 0.8
    config.reward.temperature_horizon = 750
    config.replay.fraction = 0.25
    config.train.steps = 1_000
    config.train.prompts_per_step = 32
    config.train.microbatch_prompts = 16
    config.train.learning_rate = 1e-4
    return config.lock()
