"""Fact edits become pairs that a judge learns from."""

import json
import subprocess
import sys

from fact_pairs import make
from helpers import ROOT

from gfn_jax.tasks.contradiction import FactEdit, read_edits, split_by_subject

ROME = FactEdit(
    subject="Ada Quill", edit_fact="Ada Quill was born in Rome.", original_fact="Ada Quill was born in Oslo."
)
PARIS = FactEdit(
    subject="ada quill",
    edit_fact="The place of birth of ada quill is Paris.",
    original_fact="The place of birth of ada quill is Oslo.",
)
CELLO = FactEdit(subject="Ada Quill", edit_fact="Ada Quill plays the cello.", original_fact="Ada Quill plays the harp.")
TARN = FactEdit(
    subject="Norvia", edit_fact="The capital of Norvia is Tarn.", original_fact="The capital of Norvia is Holm."
)
UNKNOWN = FactEdit(subject="Norvia", edit_fact="Norvia is an island.", original_fact=" ")


def test_what_facts_say_of_each_other():
    labels = {pair[:2]: pair.label for pair in make([ROME, PARIS, CELLO, TARN, UNKNOWN], unrelated=3, seed=0)}
    edits, truths = (
        [getattr(fact, name) for fact in (ROME, PARIS, CELLO, TARN)]
        for name in FactEdit.model_fields
        if name != "subject"
    )
    assert labels[truths[0], truths[1]] == labels[truths[1], truths[0]] == "entailment"
    assert labels[edits[0], edits[0]] == "entailment"
    for left, right in ((edits[0], truths[0]), (edits[0], truths[1]), (edits[0], edits[1])):
        assert labels[left, right] == labels[right, left] == "contradiction"
    assert labels[edits[0], truths[2]] == labels[edits[0], truths[3]] == labels[truths[3], edits[0]] == "neutral"
    assert not any("island" in text for pair in labels for text in pair)


def test_nothing_is_said_of_subjects_that_are_held_out(tmp_path):
    facts, out = tmp_path / "facts.jsonl", tmp_path / "pairs.tsv"
    named = [(f"Place {number}", "ABC"[number % 3]) for number in range(23)]
    rows = [{"subject": n, "edit_fact": f"{n} is in {a}.", "original_fact": f"{n} is in D."} for n, a in named]
    facts.write_text("\n".join(map(json.dumps, rows)))
    _, held_out = split_by_subject(read_edits(str(facts), "data.path"), 7)
    apart = {edit.subject for edit in held_out}
    assert len(apart) == 7

    def made(*flags):
        script = ROOT / "data" / "zsre" / "judge_pairs.py"
        command = [sys.executable, script, f"--facts={facts}", f"--out={out}", "--val_prompts=7", *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        pairs = [line.split("\t") for line in out.read_text().splitlines()]
        assert done.stdout.startswith(f"{len(pairs)} pairs of {7 if flags else 16} facts")
        return {" ".join(text.split()[:2]) for pair in pairs for text in pair[:2]}

    assert len(made()) == 16
    assert not made() & apart
    assert made("--subjects=held_out") == apart
