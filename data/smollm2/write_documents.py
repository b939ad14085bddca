"""Has the language model write documents of its own, for prompts that are nobody else's.

    python data/fetch.py smollm2
    python data/smollm2/write_documents.py [--out data/smollm2/documents.txt] [--seed 0]
    python data/openwebtext/generate_prompts.py --text data/smollm2/documents.txt --tokenizer data/smollm2/model \
        --count 400 --out data/smollm2/prompts.txt

Every document begins with one of the openings below, and goes on for up to 96 tokens as the model likes. The second
command keeps what reads like prose, by the rules that OpenWebText's prompts are kept by: `prompts.txt`, which is
what `configs/next_sentence_smollm2.py` trains on, is its result.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.progress import track

from gfn_jax.config.base import base
from gfn_jax.config.reading import parse_config
from gfn_jax.config.schema import Config
from gfn_jax.experiment.experiment import Experiment, build
from gfn_jax.policy.sampler import Behaviour, sample
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.text.vocabulary import END_OF_TEXT

HERE = Path(__file__).parent
BEGINNINGS = (
    "The mayor of the town said on Monday that",
    "Scientists at the university have found that",
    "After three weeks of rain, the farmers",
    "The company announced last year that",
    "My grandmother always told us that",
    "A new study of city traffic shows that",
    "When the train finally arrived,",
    "The museum will reopen in spring, and",
    "Most people think of bread as something simple, but",
    "The team lost its first three games, yet",
    "In the northern part of the country, winters",
    "The doctor explained to the family that",
    "Nobody expected the little shop to",
    "The bridge was built more than a century ago, and",
    "Students at the school have started",
    "The price of wheat rose again this month because",
    "She had been working at the library for ten years when",
    "The government is planning to",
    "Early in the morning, the fishermen",
    "The film tells the story of",
    "Engineers have warned that the dam",
    "At the edge of the forest there is",
    "The court decided on Friday that",
    "Learning to play the violin takes",
    "The island is home to",
    "A fire broke out in the kitchen of",
    "The book was first published in",
    "Local volunteers have collected",
    "He opened the letter slowly and",
    "The old clock in the square",
    "Tourists who visit the valley",
    "The airline said that the delay",
)
UNWANTED = re.compile(  # a small model writes them without thinking, and nobody wants to read them in an example
    r"\b(?:women|girls?|wives|sex\w*|rap(?:e|ed|ist)|gay|lesbian|trans\w*|race|racis\w*|black|white|jew\w*|muslim\w*|"
    r"islam\w*|christian\w*|god|nazi\w*|suicid\w*|kill\w*|murder\w*|shot|shooting|gun\w*|bomb\w*|terror\w*|abus\w*|"
    r"drug\w*|trump|obama|biden|clinton|hell|damn|porn\w*|naked|dead|died|deaths?)\b",
    re.IGNORECASE,
)
PER_BATCH = 12  # documents of each beginning, of which each is written so often at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HERE / "model"), help="a Hugging Face directory, hub name or GGUF file")
    parser.add_argument("--out", type=Path, default=HERE / "documents.txt")
    parser.add_argument("--batches", type=int, default=3, help=f"with {PER_BATCH} documents of each beginning")
    parser.add_argument("--tokens", type=int, default=96, help="of a document, at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    documents = []
    with build(free_writing(args.model, args.seed, room=32, tokens=args.tokens)) as experiment:
        write = writer(experiment, PER_BATCH)
        for batch in track(range(args.batches), "writing"):
            for first in range(0, len(BEGINNINGS), 8):
                beginnings = BEGINNINGS[first : first + 8]
                texts = write(beginnings, batch * len(BEGINNINGS) + first)
                rows = np.repeat(np.array(beginnings), PER_BATCH)
                documents += [" ".join((row + text).split()) for row, text in zip(rows, texts, strict=True)]
    kept = arranged(documents, args.seed)
    args.out.write_text("\n\n".join(kept) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(kept)} documents; {len(documents) - len(kept)} were left out for what they speak of")


def free_writing(model: str, seed: int, *, room: int, tokens: int) -> Config:
    """Of a model that goes on after prompts of up to `room` tokens as it likes, for up to `tokens`."""
    raw = base()
    raw.seed, raw.model.name_or_path = seed, model
    raw.data.path, raw.data.prompt_buckets = "none", (room,)
    raw.task.terminator, raw.task.bans = END_OF_TEXT, ConfigDict()
    raw.sampling.max_len = tokens
    return parse_config(raw.to_dict())


def writer(experiment: Experiment, count: int) -> Callable[[Sequence[str], int], list[str]]:
    """What writes `count` continuations of each of some prompts, prompt by prompt; of another batch, others."""
    model, rules, seed = experiment.structure, experiment.rules, experiment.config.seed

    @jax.jit
    def drawn(frozen, prompts, batch):
        own, key = model.frozen(frozen), key_for(seed, Purpose.SAMPLING, batch)
        behaviour = Behaviour(top_p=0.95)
        return sample(own, own, rules, prompts, key, samples_per_prompt=count, behaviour=behaviour)[0]

    return lambda prompts, batch: experiment.texts(drawn(experiment.frozen, experiment.encode(prompts), batch))


def arranged(documents: Sequence[str], seed: int) -> list[str]:
    """Those that one may show to anybody, in an order that mixes the beginnings."""
    order = np.random.default_rng(seed).permutation(len(documents))
    return [documents[index] for index in order if not UNWANTED.search(documents[index])]


if __name__ == "__main__":
    main()
