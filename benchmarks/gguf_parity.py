"""A model that came as GGUF beside transformers on the same directory: likelihood of real text, tokens, time, memory.

    python benchmarks/gguf_parity.py --gguf FILE.gguf --prompts FILE [--lines 200] [--out FILE.json]

Converts the file into an empty cache, loads the model and scores the first lines of FILE (a text a line) by our
prompt encoder and by transformers. Tokens are compared with those of a byte-level BPE that is written out here, from
the file's own vocabulary and merges, as the model's authors describe it: every digit by itself, then GPT-2's words.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 128
TEXTS = (
    "in  1999",
    "a1b22 c333",
    "two\n\nlines\r\n",
    "  leading",
    "emoji 🙂👩‍👧 and é",
    "it's 3.14%, isn't it?",
    "\t tab ",
)


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 * 1.073741824


def ours(gguf: str, lines: list[str], results: Any) -> None:
    """Runs in a process of its own, whose peak memory is the loading's."""
    import jax
    import jax.numpy as jnp

    from gfn_jax.config.base import base
    from gfn_jax.config.reading import parse_config
    from gfn_jax.models.hf_files import find_model as find_files
    from gfn_jax.models.layout import WHEREVER
    from gfn_jax.models.loading import find_model, load_model
    from gfn_jax.models.mesh import make_mesh, weight_shardings
    from gfn_jax.text.tokenizer import Tokenizer
    from gfn_jax.types import Prompts

    started = time.perf_counter()
    directory = find_files(gguf, "--gguf")
    converted = time.perf_counter() - started
    raw = base()
    raw.model.name_or_path = gguf
    config, mesh, before = parse_config(raw.to_dict()), make_mesh(1, 1), peak_gb()
    started = time.perf_counter()
    found = find_model(config.model, WHEREVER)
    loaded = load_model(found, mesh, weight_shardings(mesh, found.structure, fsdp=False), 0)
    jax.block_until_ready(loaded.frozen)
    figures = {
        "conversion_seconds": converted,
        "conversion_peak_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20 * 1.073741824,
        "load_seconds": time.perf_counter() - started,
        "load_peak_gb": peak_gb(),
        "peak_before_loading_gb": before,
    }
    tokenizer = Tokenizer(directory)

    @jax.jit
    def log_p(frozen, prompts):
        model = found.structure.frozen(frozen)
        all_log_p = jax.nn.log_softmax(model.logits(model.encode(prompts)[0]))
        return jnp.take_along_axis(all_log_p[:, :-1], prompts.tokens_BxP[:, 1:, None], 2)[..., 0]

    rows = [tokenizer.encode_prompt(line)[:WIDTH] for line in lines]
    means = []
    for row in rows:
        tokens = np.zeros((1, WIDTH), np.int32)
        tokens[0, : len(row)] = row
        means.append(np.asarray(log_p(loaded.frozen, Prompts(jnp.asarray(tokens), jnp.array([len(row)]))))[0])
    log_ps = [values[: len(row) - 1].tolist() for values, row in zip(means, rows, strict=True)]
    results.put((figures, str(directory), log_ps, tokenizer.encode_batch([*lines, *TEXTS])))


def theirs(directory: str, lines: list[str]) -> list[list[float]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    log_ps = []
    for line in lines:
        tokens = torch.tensor([tokenizer(line)["input_ids"][:WIDTH]])
        with torch.no_grad():
            log_p = torch.log_softmax(model(tokens).logits[0, :-1], -1)
        log_ps.append(log_p.gather(1, tokens[0, 1:, None])[:, 0].tolist())
    return log_ps


def written_out(gguf: str) -> Callable[[str], list[int]]:
    """The encoding, from the file's own vocabulary and merges, without the tokenizers library."""
    import regex
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    index = {item: number for number, item in enumerate(fields["tokenizer.ggml.tokens"].contents())}
    merges = fields["tokenizer.ggml.merges"].contents()
    rank = {tuple(merge.split(" ")): number for number, merge in enumerate(merges)}
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letter = {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}
    words = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def encode(text: str) -> list[int]:
        ids = []
        for part in regex.findall(r"\p{N}|\P{N}+", text):  # no part spans a digit's edge
            for word in words.findall(part):
                pieces = [letter[byte] for byte in word.encode()]
                while len(pieces) > 1:
                    pairs = [rank.get(pair, len(rank)) for pair in itertools.pairwise(pieces)]
                    best = int(np.argmin(pairs))
                    if pairs[best] == len(rank):
                        break
                    pieces[best : best + 2] = [pieces[best] + pieces[best + 1]]
                ids += [index[piece] for piece in pieces]
        return ids

    return encode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [line.strip() for line in args.prompts.read_text(encoding="utf-8").splitlines()[: args.lines]]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        process = context.Process(target=ours, args=(args.gguf, lines, results))
        process.start()
        figures, directory, our_log_ps, tokens = results.get()
        process.join()
        their_log_ps = theirs(directory, lines)
    encode = written_out(args.gguf)
    differences = [abs(np.mean(a) - np.mean(b)) for a, b in zip(our_log_ps, their_log_ps, strict=True)]
    flat = [np.concatenate(each) for each in (our_log_ps, their_log_ps)]
    from machine import describe

    result = {
        **figures,
        "lines": len(lines),
        "tokens": len(flat[0]),
        "nats_per_token": [float(each.mean()) for each in flat],
        "difference_of_means": float(abs(flat[0].mean() - flat[1].mean())),
        "largest_difference_of_a_line": float(max(differences)),
        "texts_with_other_tokens": sum(encode(text) != ids for text, ids in zip([*lines, *TEXTS], tokens, strict=True)),
        **describe(),
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
