"""Some steps of the contradiction task on real facts, with models of real architecture and random weights.

    python benchmarks/real_questions.py --facts FILE --tokenizer DIR --nli-tokenizer DIR [--steps 3] [--out FILE.json]

FILE holds JSON lines (subject, edit_fact, original_fact); the DIRs hold GPT-2's and a DeBERTa-v2's tokenizer. The
judge is a DeBERTa-v2 of six layers. With random weights the texts mean nothing: this shows that all parts work.
"""

import argparse
import json
import resource
import tempfile
from pathlib import Path

import numpy as np
from local_redis import local_redis
from machine import describe
from rich.console import Console
from run_files import json_lines

LABELS = ["contradiction", "entailment", "neutral"]


def save_random_judge(tokenizer: Path, out: Path) -> None:
    """A DeBERTa-v2 classifier with random weights behind a tokenizer of its own."""
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, PreTrainedTokenizerFast

    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer / "tokenizer.json"), **special)
    config = DebertaV2Config.from_dict(
        {
            "vocab_size": len(fast),
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
            "pad_token_id": fast.pad_token_id,
            "id2label": dict(enumerate(LABELS)),
            "label2id": {label: index for index, label in enumerate(LABELS)},
        }
    )
    DebertaV2ForSequenceClassification(config).save_pretrained(out)
    fast.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--nli-tokenizer", required=True, type=Path)
    parser.add_argument("--model", default="gpt2", help="an architecture's name")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=2, help="in a step, with 8 samples each")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    # Here, because the judge's workers import this file again and need no jax.
    from configs.contradiction_gpt2_large import get_config
    from gfn_jax.config.reading import parse_config
    from gfn_jax.training.loop import train

    with local_redis() as server, tempfile.TemporaryDirectory() as scratch:
        save_random_judge(args.nli_tokenizer, Path(scratch) / "judge")
        raw = get_config().unlock()
        raw.data.path, raw.model.tokenizer, raw.data.val_prompts = args.facts, args.tokenizer, 2
        raw.model.name_or_path, raw.model.random_init, raw.model.dtype = args.model, True, "float32"
        raw.mesh.data, raw.replay.url = 1, server.url
        # A question of a random model ends nowhere, and has to be answered at every length: short ones, for a CPU.
        raw.sampling.max_len, raw.reward.answers.max_new_tokens = 10, 6
        raw.reward.answers.batch_size = 32
        raw.reward.nli.name_or_path, raw.reward.nli.device = str(Path(scratch) / "judge"), "cpu"
        raw.train.steps = raw.train.eval_every = raw.train.checkpoint_every = args.steps
        raw.train.prompts_per_step = raw.train.microbatch_prompts = raw.eval.prompts_per_batch = args.prompts
        raw.eval.samples_per_prompt = 2
        workdir = Path(scratch) / "run"
        train(parse_config(raw.to_dict()), workdir, Console(width=120))
        metrics = json_lines(workdir / "metrics.jsonl")

    steps = [row for row in metrics if "train/loss" in row]
    phases = [name for name in steps[0] if name.startswith("time/")]
    result = {
        "facts": Path(args.facts).name,
        "model": args.model,
        "steps": args.steps,
        "trajectories_per_step": 8 * args.prompts,
        "question_tokens": [raw.sampling.min_len, raw.sampling.max_len],
        "seconds_per_step_median": float(np.median([row["train/seconds"] for row in steps])),
        **{name: float(np.median([row[name] for row in steps if name in row])) for name in phases},
        "losses": [row["train/loss"] for row in steps],
        "bad_rows": sum(row["train/bad_rows"] for row in steps),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        **describe(),
    }
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
