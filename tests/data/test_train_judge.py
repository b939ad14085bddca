"""The maker of judges: which pairs it reads and holds out, and that a judge comes out the same after a stop."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from judge_training import Settings, train
from pairs import Pair, as_written, part_of, read_pairs

from gfn_jax.runtime.errors import UserError

COLOURS = ("red", "blue", "green")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A text encoder of 2 layers with random weights, whose words are those of the pairs."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    place = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "door", "is", ".", *COLOURS]
    words += [f"n{number}" for number in range(60)]
    (place / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 28,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 52,
        "initializer_range": 0.5,
    }
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)).save_pretrained(place)
    BertTokenizer(str(place / "vocab.txt"), model_max_length=32).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory) -> Path:
    """The same colour is entailed, another one contradicts, and another door is neutral."""
    place = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    lines = []
    for number in range(53):
        colour, other = COLOURS[number % 3], COLOURS[(number + 1) % 3]
        premise = f"door n{number} is {colour}"
        lines += [f"{premise}\tdoor n{number} is {colour}\t0", f"{premise}\tdoor n{number} is {other}\t2"]
        lines.append(f"{premise}\tdoor n{(number + 7) % 53} is {other}\tneutral")
    place.write_text("\n".join([*lines, "door n1 is red\tdoor n2 is red\t-"]) + "\n")
    return place


def command(encoder: Path, pairs: Path, out: Path, *flags: str) -> list[str]:
    script = str(ROOT / "data" / "nli" / "train_judge.py")
    own = [f"--encoder={encoder}", f"--pairs={pairs}", f"--out={out}", "--batch_size=8", "--save_every=5"]
    return [sys.executable, script, *own, *flags]


def run(*arguments) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_judge_is_the_same_after_a_stop_and_is_one_that_rewards_take(encoder, pairs_file, tmp_path):
    settings = Settings(str(encoder), (str(pairs_file),), "both", 0, epochs=2.0, batch_size=8, learning_rate=0.003)
    train(settings, str(tmp_path / "whole"), save_every=5)
    stopped = tmp_path / "stopped"
    with subprocess.Popen(
        command(encoder, pairs_file, stopped, "--learning_rate=0.003"), stdout=subprocess.DEVNULL, cwd=ROOT
    ) as running:
        while running.poll() is None and not list(tmp_path.glob("stopped.unfinished/checkpoint-*/trainer_state.json")):
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
    assert not stopped.exists()
    assert run(encoder, pairs_file, stopped, "--learning_rate=0.003").returncode == 0
    assert (stopped / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert json.loads((stopped / "judge.json").read_text()) == json.loads((tmp_path / "whole/judge.json").read_text())
    assert not (tmp_path / "stopped.unfinished").exists()
    check_accuracy(stopped, pairs_file)

    from gfn_jax.rewards.nli import NLIModel

    judge = NLIModel(str(stopped), -1, batch_size=8)
    pairs = [("door n1 is red", "door n1 is red"), ("door n1 is red", "door n1 is blue")]
    (same, _), (other, _) = judge.log_contradiction(pairs)
    assert other > same

    all_pairs, _ = read_pairs([str(pairs_file)])
    own = [(pair.premise, pair.hypothesis) for pair in all_pairs if pair.label == 2]
    share = np.mean([log_p > np.log(0.5) for log_p, _ in judge.log_contradiction(own)])
    examined = [sys.executable, "data/nli/examine_judge.py", "--judge", stopped, "--pairs", pairs_file]
    said = subprocess.run(examined, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert re.search(rf"contradiction .* {len(own)} .* {share:.3f} ", said)


def check_accuracy(judge: Path, pairs_file: Path) -> None:
    """What `judge.json` says is what transformers computes, pair by pair."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(judge), AutoTokenizer.from_pretrained(judge)
    _, held_out = part_of(read_pairs([str(pairs_file)])[0], "both")
    said = json.loads((judge / "judge.json").read_text())["as_is"]
    with torch.no_grad():
        predicted = [
            model(**tokenizer(pair.premise, pair.hypothesis, return_tensors="pt")).logits.argmax().item()
            for pair in held_out
        ]
    right = [index == pair.label for index, pair in zip(predicted, held_out, strict=True)]
    assert len(set(predicted)) > 1
    assert said["accuracy"] == pytest.approx(sum(right) / len(right))
    of_last = [is_right for is_right, pair in zip(right, held_out, strict=True) if pair.label == 2]
    assert said["recall"]["contradiction"] == pytest.approx(sum(of_last) / len(of_last))


def test_a_premise_is_in_one_part_alone(pairs_file):
    pairs, undecided = read_pairs([str(pairs_file)])
    assert (len(pairs), undecided) == (3 * 53, 1)
    twins = [Pair(pair.premise.upper() + " ", pair.hypothesis, pair.label) for pair in pairs]
    parts = [part_of([*pairs, *twins], half) for half in ("first", "second", "both")]
    premises = [{pair.premise.strip().lower() for pair in chosen} for chosen, _ in parts]
    held_out = [{pair.premise.strip().lower() for pair in held_out} for _, held_out in parts]
    assert held_out[0] == held_out[1] == held_out[2] != set()
    assert premises[0].isdisjoint(premises[1])
    assert premises[0] | premises[1] == premises[2]
    assert premises[2].isdisjoint(held_out[0])
    assert premises[2] | held_out[0] == {pair.premise for pair in pairs}


def test_texts_are_written_as_facts_are():
    assert as_written("two women sit") == "Two women sit."
    assert as_written("Is it so?") == "Is it so?"


def test_snli_reads_as_published(tmp_path):
    lines = [
        {"sentence1": "A dog runs.", "sentence2": "An animal moves.", "gold_label": "entailment", "pairID": "1"},
        {"sentence1": "A dog runs.", "sentence2": "A dog eats.", "gold_label": "-"},
        {"premise": "A dog runs.", "hypothesis": "A dog sleeps.", "label": 2},
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, undecided = read_pairs([str(file)])
    assert (found[0].label, found[1].label, undecided) == (0, 2, 1)


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("a.tsv", "a dog\tan animal", "line 1 has to be premise, hypothesis and label"),
        ("a.tsv", "a dog\tan animal\tmaybe", "line 1: the label 'maybe' is none of entailment"),
        ("a.tsv", "a dog\t \t2", "line 1: the premise or the hypothesis is empty"),
        ("a.jsonl", '{"premise": "a dog"}', "line 1 needs the fields premise, hypothesis, label"),
    ],
)
def test_what_is_no_pair_is_named_by_its_line(tmp_path, name, line, said):
    (tmp_path / name).write_text(line + "\n")
    with pytest.raises(UserError, match=said):
        read_pairs([str(tmp_path / name)])


def test_what_cannot_be_made_is_said_in_one_line(encoder, pairs_file, tmp_path):
    from judge_training import Settings, train

    (tmp_path / "there").mkdir()
    for of, out, said in ((encoder, "there", "is there already"), (tmp_path / "none", "out", "cannot be loaded")):
        with pytest.raises(UserError, match=said):
            train(Settings(str(of), (str(pairs_file),), "both", 0, 1.0, 8, 1e-3), str(tmp_path / out), 5)
