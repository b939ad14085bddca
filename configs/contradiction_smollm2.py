r"""Contradictory questions about real facts, by SmolLM2-135M and a judge of one's own, on two CPU cores.

    python data/fetch.py smollm2
    python data/fetch.py minilm
    python data/zsre/convert.py --input FILE
    python data/zsre/judge_pairs.py
    python data/nli/train_judge.py --encoder data/nli/encoder --pairs FILE --pairs data/zsre/judge_pairs.tsv \
        --out data/nli/judge

make the model, the facts and the judge; any NLI model that the hub has does as well. Both templates show the model
by examples what is wanted.
"""

from gfn_jax.config.base import base

_QUESTIONS = (
    ("The Eiffel Tower is located in Rome.", "Eiffel Tower", "In which city is the Eiffel Tower located?"),
    ("The author of Hamlet was Jane Austen.", "Hamlet", "Who was the author of Hamlet?"),
    ("The date when the Titanic sank was 1931.", "Titanic", "When did the Titanic sink?"),
    ("The record label of Abbey Road was Motown.", "Abbey Road", "What was the record label of Abbey Road?"),
    ("Marie Curie died in London.", "Marie Curie", "Where did Marie Curie die?"),
    ("The star of Casablanca was Cary Grant.", "Casablanca", "Who was the star of Casablanca?"),
    ("Mozart's father is Joseph Haydn.", "Mozart", "Who is Mozart's father?"),
    ("The company that makes the iPhone is Nokia.", "iPhone", "Which company makes the iPhone?"),
)
_ANSWERS = (
    ("In which city is the Eiffel Tower located?", "The Eiffel Tower is located in Paris."),
    ("Who wrote Hamlet?", "The author of Hamlet was William Shakespeare."),
    ("In what year did the Titanic sink?", "The date when the Titanic sank was 1912."),
    ("What position did Angela Merkel hold?", "The position held by Angela Merkel was chancellor of Germany."),
    ("What was the record label of Abbey Road?", "The record label of Abbey Road was Apple Records."),
    ("Where did Marie Curie die?", "Marie Curie died in Passy."),
    ("Who was the star of Casablanca?", "The star of Casablanca was Humphrey Bogart."),
    ("Who is Mozart's father?", "Mozart's father is Leopold Mozart."),
    ("On which network was Friends originally shown?", "Friends was originally shown on NBC."),
    ("Which company makes the iPhone?", "The company that makes the iPhone is Apple."),
)


def get_config():
    config = base()
    config.task.name = "contradiction"
    form = "Fact: {}\nQuestion about {}:{}"
    shown = "\n\n".join(form.format(fact, subject, f" {question}") for fact, subject, question in _QUESTIONS)
    config.task.prompt_template = (
        "Each fact is turned into the question that it answers.\n\n"
        f"{shown}\n\n{form.format('{edit_fact}', '{subject}', '')}"
    )
    config.task.terminator = "?"
    config.task.bans.sentence_end = r"[!…]"  # full stops may be part of names
    config.data.path = "data/zsre/train.jsonl"
    config.data.val_prompts = 64
    config.data.prompt_buckets = (280,)  # 232 tokens of each are the examples, which are encoded once for a batch
    config.model.name_or_path = "data/smollm2/model"
    config.model.lora.rank = 16
    config.model.lora.alpha = 32.0
    config.sampling.samples_per_prompt = 8
    config.sampling.min_len = 3
    config.sampling.max_len = 20
    config.sampling.support_min_p = 0.02
    config.sampling.temperature_low = 1.0
    config.sampling.temperature_high = 1.5
    config.sampling.temperature_prob = 0.25
    config.reward.temperature_end = 1.0
    config.reward.temperature_horizon = 0
    config.reward.contradiction_weight = 4.0
    shown = "".join(f"Question: {question}\nAnswer: {answer}\n" for question, answer in _ANSWERS)
    config.reward.answers.template = f"{shown}Question: {{question}}\nAnswer:"
    config.reward.answers.max_new_tokens = 20
    config.reward.answers.batch_size = 24
    config.reward.nli.name_or_path = "data/nli/judge"
    config.replay.fraction = 0.25
    config.replay.sampling = "reward"
    config.train.steps = config.train.decay_steps = 300
    config.train.prompts_per_step = config.train.microbatch_prompts = 4
    config.train.learning_rate = 5e-4
    config.train.warmup_steps = 10
    config.train.eval_every = 100
    config.train.checkpoint_every = 50
    config.train.pipeline_depth = 1
    config.eval.samples_per_prompt = 4
    config.eval.prompts_per_batch = 16
    return config.lock()
