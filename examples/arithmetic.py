"""A reward that can be verified: sums worked out step by step, likely ones whose result is right.

python data/fetch.py smollm2
python examples/arithmetic.py > sums.txt
python -m gfn_jax.train --config examples/arithmetic.py --config.data.path=sums.txt --workdir runs/arithmetic

For a sum x the policy samples a worked answer y in proportion to p_frozen(y | x), times e^6 where it ends in the right
number: so it learns to work sums out from their results alone, as in the third experiment of Hu et al. (2024).
"""

import itertools
import random
import re

from gfn_jax.config.base import base

SHOWN = (
    "4 + 3 - 5 = 7 - 5 = 2.",
    "9 - 2 + 6 = 7 + 6 = 13.",
    "1 + 8 + 7 = 9 + 7 = 16.",
    "6 - 4 - 1 = 2 - 1 = 1.",
)


def is_right(prompts, texts):
    return [6.0 * (_last_number(text) == _value(prompt)) for prompt, text in zip(prompts, texts, strict=True)]


def _last_number(text):
    numbers = re.findall(r"-?\d+", text)
    return int(numbers[-1]) if numbers else None


def _value(prompt):
    """Of the sum in the prompt's last line, such as "3 + 4 - 2 ="."""
    terms = re.findall(r"[+-]?\d+", prompt.splitlines()[-1].replace(" ", ""))
    return sum(map(int, terms))


def get_config():
    config = base()
    config.task.prompt_template = "\n".join((*SHOWN, "{prompt}"))
    config.task.bans = {"other": r"[^ \d+=-]|\s{2,}"}
    config.data.prompt_buckets = (96, 112)
    config.model.name_or_path = "data/smollm2/model"
    config.sampling.max_len = 16
    config.sampling.support_min_p = 1e-4
    config.sampling.temperature_high, config.sampling.temperature_prob = 2.0, 0.5
    config.objective.name = "vargrad"
    config.reward.function.name = "examples.arithmetic:is_right"
    config.reward.temperature_end = 1.0
    config.replay.fraction, config.replay.sampling = 0.25, "reward"
    config.train.steps = config.train.decay_steps = 150
    config.train.prompts_per_step = config.train.microbatch_prompts = 8
    config.train.learning_rate = 5e-4
    config.train.eval_every = config.train.checkpoint_every = 75
    config.eval.samples_per_prompt = 8
    return config.lock()


if __name__ == "__main__":
    digits = range(1, 10)
    every = [f"{a} {s} {b} {t} {c} =" for a, s, b, t, c in itertools.product(digits, "+-", digits, "+-", digits)]
    print("\n".join(random.Random(0).sample(every, 1_000)))
