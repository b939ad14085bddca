"""Next-sentence continuation with SmolLM2-135M, a real language model that two CPU cores can train.

`python data/fetch.py smollm2` fetches it. The prompts are sentences that the model itself wrote
(`data/smollm2/write_documents.py`); any file with a prompt on each line does as well:

    --config.data.path=FILE
"""

from gfn_jax.config.base import base


def get_config():
    config = base()
    config.data.path = "data/smollm2/prompts.txt"
    config.data.val_prompts = 32
    config.data.prompt_buckets = (32, 64, 96)
    config.model.name_or_path = "data/smollm2/model"
    config.model.lora.rank = 16
    config.model.lora.alpha = 32.0
    config.sampling.samples_per_prompt = 8
    config.sampling.min_len = 1
    config.sampling.max_len = 30
    config.sampling.temperature_low = 0.5
    config.sampling.temperature_high = 2.0
    config.sampling.temperature_prob = 0.666
    config.reward.temperature_end = 0.8
    config.reward.temperature_horizon = 60
    config.replay.fraction = 0.25
    config.train.steps = config.train.decay_steps = 120
    config.train.prompts_per_step = config.train.microbatch_prompts = 4
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 5
    config.train.eval_every = 60
    config.train.checkpoint_every = 60
    config.eval.samples_per_prompt = 8
    config.eval.prompts_per_batch = 8
    return config.lock()
