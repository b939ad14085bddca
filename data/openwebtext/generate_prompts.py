"""Makes the prompts of next-sentence continuation out of OpenWebText, or of a text of yours.

python data/openwebtext/generate_prompts.py [--count 1000] [--seed 0] [--out data/openwebtext/prompts.txt]
python data/openwebtext/generate_prompts.py --text FILE [--tokenizer gpt2] [--min_tokens 5] [--max_tokens 30] ...

A prompt is one to three consecutive sentences of a document, one prompt a document, one a line. FILE is
plain text, whose paragraphs are the documents, or has a field "text": .jsonl, .json, .parquet. The same
command gives the same file; a stopped one goes on where it was. Ends with tables of what was kept and
refused, and with prompt_stats.png beside the prompts.
"""

import sys
from pathlib import Path

from absl import flags

from gfn_jax.config import command_line
from gfn_jax.runtime.errors import UserError

_DATASET = flags.DEFINE_string("dataset", "Skylion007/openwebtext", "on the Hugging Face hub, with a field 'text'")
_TEXT = flags.DEFINE_string("text", None, "a local file, instead of the dataset")
_OUT = flags.DEFINE_string("out", "data/openwebtext/prompts.txt", "the prompts file")
_COUNT = flags.DEFINE_integer("count", 1000, "how many prompts", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "of which sentences of a document are drawn", lower_bound=0)
_TOKENIZER = flags.DEFINE_string("tokenizer", "gpt2", "a name on the hub, or a directory")
_MIN_TOKENS = flags.DEFINE_integer("min_tokens", 5, "of a sentence", lower_bound=1)
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 30, "of a sentence", lower_bound=1)
_MAX_SENTENCES = flags.DEFINE_integer("max_sentences", 3, "of a prompt", lower_bound=1)


def main() -> None:
    if _MIN_TOKENS.value > _MAX_TOKENS.value:
        raise UserError(f"--min_tokens {_MIN_TOKENS.value} is more than --max_tokens {_MAX_TOKENS.value}")
    from document_stream import file_sha256, open_dataset, open_file
    from prompt_collection import Collection
    from prompt_drawing import Drawing
    from prompt_report import plot, report
    from prompt_search import search
    from rich.console import Console

    from gfn_jax.models.hf_files import TOKENIZER_FILES, find_directory
    from gfn_jax.text.tokenizer import Tokenizer

    console, out = Console(), Path(_OUT.value)
    drawn = {flag.name: flag.value for flag in (_MIN_TOKENS, _MAX_TOKENS, _MAX_SENTENCES, _SEED)}
    settings = {**drawn, "count": _COUNT.value, "tokenizer": _TOKENIZER.value}
    if _TEXT.value is None:
        stream = open_dataset(_DATASET.value)
        settings["dataset"] = _DATASET.value
    else:
        stream = open_file(Path(_TEXT.value))
        settings |= {"text": _TEXT.value, "text_sha256": file_sha256(Path(_TEXT.value))[:16]}
    tokenizer = Tokenizer(find_directory(_TOKENIZER.value, "--tokenizer", TOKENIZER_FILES))
    collection = Collection(out, settings)
    try:
        search(stream, Drawing(tokenizer, **drawn), collection, _COUNT.value, console)
    except KeyboardInterrupt:
        console.print(f"stopped with {len(collection.prompts)} prompts; the same command goes on", soft_wrap=True)
        sys.exit(130)
    collection.finish()
    if not collection.prompts:
        raise UserError(f"none of {collection.tally['documents/read']} documents gives a prompt")
    plot(collection.prompts, out.with_name("prompt_stats.png"))
    console.print(report(collection.prompts, collection.tally))
    fewer = f", fewer than the {_COUNT.value} asked for: there are no more documents"
    found = len(collection.prompts)
    console.print(f"{found} prompts are in {out}{fewer if found < _COUNT.value else ''}", soft_wrap=True)


if __name__ == "__main__":
    command_line.run(main)
