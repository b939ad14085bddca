"""Greedy decoding is Hugging Face's, token for token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gfn_jax.models import hf_architecture, hf_weights
from gfn_jax.models.greedy import decode_greedily
from gfn_jax.models.parts import ModelStructure
from gfn_jax.text.prompts import pad_to_bucket
from gfn_jax.types import LoRAConfig

ROWS = [[3], [5, 8, 13, 21, 34], [2, 7, 1, 8, 2, 8, 1], [31, 4]]


def structure_of(directory):
    architecture = hf_architecture.read_architecture(directory)
    structure = ModelStructure(architecture, LoRAConfig(1, 1.0, ("all-linear",)), dtype=jnp.float32, remat=False)
    return structure, structure.frozen(hf_weights.load_weights(directory, architecture, jnp.dtype("float32")))


decode = jax.jit(decode_greedily, static_argnames=("min_new_tokens", "max_new_tokens"))


@pytest.mark.accelerator
@pytest.mark.parametrize("min_new_tokens", [1, 4])
def test_greedy_equals_hugging_face_under_left_padding(hugging_face_directory, min_new_tokens):
    """Ours pads on the right, theirs on the left: neither padding is seen."""
    model, directory = hugging_face_directory
    width, most = max(map(len, ROWS)), 11
    inputs = torch.tensor([[0] * (width - len(row)) + row for row in ROWS])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ROWS])
    settings = {"attention_mask": mask, "do_sample": False, "max_new_tokens": most, "pad_token_id": 0}
    free = model.generate(inputs, **settings)[:, width:]
    ends = sorted({int(free[0, 2]), int(free[1, 5])})  # two rows end early, the first before the minimum of 4
    output = model.generate(inputs, eos_token_id=ends, min_new_tokens=min_new_tokens, **settings)[:, width:]

    structure, frozen = structure_of(directory)
    ends_V = np.zeros(structure.architecture.padded_vocab_size, bool)
    ends_V[ends] = True
    prompts = pad_to_bucket(ROWS, [13], 13)
    got = decode(frozen, prompts, jnp.asarray(ends_V), min_new_tokens=min_new_tokens, max_new_tokens=most)

    lengths = np.asarray(got.length_B)
    assert min(lengths) < most
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(got.tokens_BxL[row, :length], output[row, :length])
        assert (length == most) or int(output[row, length - 1]) in ends
        sequence = torch.tensor([[*ROWS[row], *output[row, :length].tolist()]])
        with torch.no_grad():
            log_p = torch.log_softmax(model(sequence).logits[0, len(ROWS[row]) - 1 : -1], -1)
        expected = log_p[torch.arange(length), sequence[0, len(ROWS[row]) :]].sum().item()
        assert float(got.log_p_B[row]) == pytest.approx(expected, abs=1e-4)
