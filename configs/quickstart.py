"""Contradictory questions in the miniature world: minutes on two CPU cores."""

from gfn_jax.config.base import base


def get_config():
    config = base()
    config.task.name = "contradiction"
    config.task.prompt_template = "Subject: {subject}\nFact: {edit_fact}\nQuestion:"
    config.task.terminator = "?"
    config.task.bans.sentence_end = r"[!.…]"
    config.data.path = "data/miniworld/facts_train.jsonl"
    config.data.val_path = "data/miniworld/facts_val.jsonl"
    config.data.prompt_buckets = (24, 32, 48)
    config.model.name_or_path = "data/miniworld/gpt2"
    config.sampling.samples_per_prompt = 8
    config.sampling.min_len = 3
    config.sampling.max_len = 16
    config.sampling.support_min_p = 0.002  # keeps the target on language, and full stops to where questions end
    config.sampling.temperature_high = 2.0  # so that training also sees what the policy has unlearnt to ask
    config.sampling.temperature_prob = 0.5
    config.reward.temperature_end = 1.0
    config.reward.temperature_horizon = 0
    config.reward.answers.max_new_tokens = 16
    config.reward.answers.batch_size = 64
    config.reward.nli.name_or_path = "data/miniworld/nli"
    config.reward.nli.max_length = 64
    config.train.steps = config.train.decay_steps = 160
    config.train.prompts_per_step = config.train.microbatch_prompts = 16
    config.train.learning_rate = 3e-3
    config.train.pipeline_depth = 1
    config.train.eval_every = 80
    config.train.checkpoint_every = 80
    config.eval.samples_per_prompt = 64
    config.eval.prompts_per_batch = 8
    return config.lock()
