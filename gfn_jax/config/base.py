"""Every configuration key once, with its meaning and the value that most runs want."""

from ml_collections import ConfigDict

_JUDGE = {  # of classifiers in worker processes
    "device": "cpu",  # of the workers, such as cuda:3
    "dtype": "float32",  # of its weights and products: float32, bfloat16 or float16, which are for GPUs
    "workers": 1,  # processes that judge side by side, of each process of the run
    "threads": 1,  # of each worker on a CPU
    "batch_size": 32,  # texts judged at once, a multiple of 8
    "max_length": 128,  # tokens of what is judged: of a text, or of a fact and an answer
    "timeout_s": 600.0,  # a worker that takes longer is replaced
    "attempts": 3,  # for each batch, before the run stops
}


def base() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of all random numbers: the same seed gives the same run, on any mesh

    config.task = ConfigDict()
    config.task.name = "next_sentence"  # or contradiction, random_number, or a class of your own as "module:Class"
    config.task.prompt_template = "{prompt}"  # what the policy continues; contradiction: {subject}, {edit_fact};
    # random_number: the prompt itself
    config.task.terminator = "."  # the one token that ends a continuation
    config.task.bans = ConfigDict(  # rule: regular expression, searched for in the text of each vocabulary item
        {
            "control": r"[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028\u2029\ufeff]",
            "line_break": r"[\n\r\x0b\x0c\x85\u2028\u2029]",
            "blank": r"\xa0|\s{2,}|^\s$",
            "quote": "[\"“”„«»`]|''|^ ?['‘’]$",
            "bracket": r"[\[\](){}<>]",
            "script": r"[^\x00-\x7f\xa1-\u024f\u2013\u2014\u2018-\u201d\u2026]",  # not Latin, nor its punctuation
            "mojibake": r"[ÂÃ]{2,}",
            "glued": r"\w{17,}",  # longer than words are: scraps of markup
            "symbol": r"[|\\/_=+*^~#@©®™•]",
            "punctuation_run": r"[^\w\s]{2,}",
            "sentence_end": r"[!?…]",
            "url": r"(?i)https?|www|html",
        }
    )
    config.task.options = ConfigDict()  # what random_number, or a task of your own, wants to be told

    config.data = ConfigDict()
    config.data.path = ""  # next_sentence: a prompt on each line; contradiction: JSON lines; random_number: nothing
    config.data.val_path = ""  # validation examples; empty: some of data.path are held out, chosen by hash
    config.data.val_prompts = 64  # how many are held out, or some more: what is alike but for case or white space
    # stays together; contradiction holds out all facts about a subject, or none
    config.data.prompt_buckets = (16, 32, 64, 96, 128, 192)  # prompts are padded to one of these lengths

    config.model = ConfigDict()
    config.model.name_or_path = ""  # a Hugging Face directory or hub name, or a GGUF file
    config.model.tokenizer = ""  # a directory or hub name of another tokenizer; empty: the model's
    config.model.random_init = False  # take only the architecture from name_or_path, and random weights
    config.model.dtype = "float32"  # of the frozen weights and activations: bfloat16, float32 or float64
    config.model.quantize = ""  # int8 or nf4: keep the layers' frozen kernels in 8 or 4 bits, put together where used
    config.model.matmul_precision = "highest"  # of float32 on TPUs and GPUs; default rounds to bfloat16 or TF32 first
    config.model.remat = False  # compute activations again in the backward pass, to save memory
    config.model.lora = ConfigDict(
        {
            "rank": 16,  # of the adapter of each layer
            "alpha": 16.0,  # the adapter is scaled by alpha / rank
            "targets": ("all-linear",),  # layers by the ends of their names, as PEFT reads them; all-linear: every one
        }
    )
    config.model.lora.init_from = ""  # begin from a PEFT adapter: a Hugging Face directory or hub name

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices, of all processes together, that the prompts are split over; -1: the rest, as far
    # as batches of prompts divide evenly
    config.mesh.model = 1  # devices, of one process, that the frozen weights are split over; -1: the rest
    config.mesh.fsdp = False  # split the weights over the devices of `data` too, as far as they are of one process

    config.sampling = ConfigDict()
    config.sampling.samples_per_prompt = 8  # in a training step, replayed ones included
    config.sampling.min_len = 1  # tokens before the terminator
    config.sampling.max_len = 30  # tokens before the terminator, which then is all that is allowed
    config.sampling.support_min_p = 0.0  # > 0: only tokens of this share of the frozen model's likeliest one
    config.sampling.temperature_low = 1.0  # behaviour only: the lowest temperature of a step's sampling
    config.sampling.temperature_high = 1.0  # behaviour only: the highest one
    config.sampling.temperature_prob = 0.0  # of a step that one is drawn, uniformly between the two; else it is 1
    config.sampling.top_k = 0  # behaviour only: draw from so many of the likeliest tokens; 0: off
    config.sampling.top_p = 1.0  # behaviour only: draw from the likeliest tokens of this mass; 1: off
    config.sampling.rounds_adapter = True  # behaviour only, on GPUs: merged into bfloat16 weights; half the kernels

    config.objective = ConfigDict()
    config.objective.name = "subtb"  # subtb, db, pooled, vargrad, tb or, for comparison, reinforce: see docs/design.md
    config.objective.subtb_lambda = 1.0  # subtb: pairs of states d apart weigh lambda^(d - 1)
    config.objective.log_z_learning_rate = 1e-2  # tb: of the learned log Z

    config.reward = ConfigDict()
    config.reward.granularity = "prefix"  # of every text that may end, or terminal: of whole texts (vargrad and tb)
    config.reward.temperature_start = 1.0  # log R = weighted sum of components / temperature
    config.reward.temperature_end = 0.8  # of the target; 1: R itself, below 1: sharper, and validation is at this one
    config.reward.temperature_horizon = 750  # optimiser steps from start to end
    config.reward.likelihood_weight = 1.0  # of log p_frozen(continuation | prompt)
    config.reward.allow_flat_target = False  # allow likelihood_weight / temperature_end < 0.8 without a support mask
    config.reward.function = ConfigDict(  # a part of log R that a function of yours gives, beside the task's own
        {
            "name": "",  # "module:function", of lists of prompts and texts; see docs/adding_a_task.md
            "granularity": "terminal",  # of whole texts (objectives vargrad and tb), or prefix: of all that may be one
            "weights": ConfigDict(),  # of its terms by name, where it returns several; 1 where there is none
            "workers": 0,  # processes that call it; 0: the main process
            "batch_size": 256,  # most texts of one call
            "timeout_s": 600.0,  # a worker that takes longer is replaced
            "attempts": 3,  # of workers, for each call, before the run stops
        }
    )
    config.reward.sentences = ConfigDict(
        {
            "weight": 0.0,  # of log P(label | continuation), or of what the form alone says: 0 of a sentence, else -1
            "name_or_path": "",  # a sequence classifier such as one of CoLA; empty: the form alone
            "label": "acceptable",  # its label for a sentence: an index, or a part of one name
            **_JUDGE,
        }
    )
    # From here on, contradiction alone:
    config.reward.contradiction_weight = 1.0  # of log P_NLI(contradiction | edited fact, answer)
    config.reward.original_weight = 0.0  # of log P_NLI(no contradiction | original fact, answer): keeps to the subject
    config.reward.answer_weight = 0.0  # of log p_frozen(answer | answer prompt)
    config.reward.hybrid = ConfigDict(
        {
            "steps": 0,  # first optimiser steps, with the likelihood alone as reward, less the penalty
            "threshold": 0.5,  # in these steps a P(contradiction) below this costs the penalty
            "penalty": 5.0,  # of these steps, in nats
        }
    )
    config.reward.answers = ConfigDict(
        {
            "template": "Question: {question}\nAnswer:",  # of the answer prompt; may also name {subject}
            "min_new_tokens": 1,  # of an answer
            "max_new_tokens": 24,  # of an answer; a line break ends it earlier
            "batch_size": 64,  # answers computed at once, a multiple of 8
            "threshold": -4.0,  # an answer of a lower log-probability per token costs the penalty
            "penalty": 0.0,  # in nats; 0: none
        }
    )
    config.reward.nli = ConfigDict(
        {
            "name_or_path": "",  # a sequence classifier: a Hugging Face directory or hub name
            "contradiction_label": -1,  # the index of the label; -1: the label whose name says so
            **_JUDGE,
        }
    )
    config.reward.cache_mb = 256.0  # of memory, for the answers and for each judge's judgements: some 400,000 of them

    config.replay = ConfigDict()
    config.replay.backend = "memory"  # memory, or redis: shared by processes; what either holds is in the checkpoints
    config.replay.url = "redis://localhost:6379/0"  # redis: of the server; rediss:// for TLS,
    # with the system's authorities or those in the file SSL_CERT_FILE
    config.replay.password_variable = ""  # redis: the environment variable that holds the server's password
    config.replay.fraction = 0.0  # of samples_per_prompt, rounded: rows that are remembered instead of drawn
    config.replay.sampling = "uniform"  # of a prompt's; or reward: in proportion to R at the end temperature
    config.replay.capacity = 50  # most continuations of a prompt; the best stay
    config.replay.total = 200_000  # most of all prompts, about 0.5 GB; those offered some longest ago are forgotten
    config.replay.min_edit_distance = 0.25  # of words, as a share of the longer text: nearer counts as the same

    config.train = ConfigDict()
    config.train.steps = 1_000  # optimiser steps, as all schedules count; a run may be continued with more
    config.train.prompts_per_step = 32  # of all devices together
    config.train.microbatch_prompts = 32  # most prompts of a device whose gradient is computed at once
    config.train.learning_rate = 1e-4  # the highest, of Adam
    config.train.warmup_steps = 20  # linear, from learning_rate / (warmup_steps + 1)
    config.train.decay_steps = 1_000  # steps, warm-up among them, at which the cosine decay ends; more go on at its end
    config.train.final_learning_rate = 0.1  # the share of learning_rate that the decay ends at
    config.train.adam_b1 = 0.9  # decay of Adam's mean gradient
    config.train.adam_b2 = 0.99  # decay of Adam's mean squared gradient
    config.train.weight_decay = 0.0  # of the adapter, decoupled from the gradient, times the learning rate
    config.train.max_grad_norm = 1.0  # a gradient of a larger norm is scaled down to it
    config.train.max_bad_steps = 5  # steps in a row with a row left out (no finite reward), before the run stops
    config.train.pipeline_depth = 0  # batches that are sampled while the rewards of earlier ones are computed
    config.train.log_every = 1  # steps, to a line of metrics.jsonl
    config.train.checkpoint_every = 100  # steps, to a checkpoint
    config.train.keep_checkpoints = 2  # how many of the last ones are kept
    config.train.keep_best = "elbo"  # so is the one with the highest validation figure of this name; empty: no such
    config.train.eval_every = 100  # steps, to a validation; there is one before the first step, and after the last
    config.train.patience = 0  # validations in a row without a better figure keep_best, before training ends; 0: never

    config.eval = ConfigDict()
    config.eval.samples_per_prompt = 16  # of the policy, and as many of the frozen model
    config.eval.prompts_per_batch = 16  # prompts that are validated at once
    config.eval.probes = 4  # validation prompts whose samples go into samples.jsonl

    config.tracking = ConfigDict()
    config.tracking.wandb = "disabled"  # Weights & Biases: online, offline (needs no account) or disabled
    config.tracking.project = "gfn_jax"  # its project there
    return config
