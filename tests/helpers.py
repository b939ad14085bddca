"""What several tests build: models on disk and configurations."""

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config as HFConfig
from transformers import GPT2LMHeadModel

from configs.common import base
from gfn_jax.config import Config, parse_config

ROOT = Path(__file__).parent.parent
MINIATURE = ROOT / "data" / "miniworld"


def save_gpt2(directory: Path, **settings: Any) -> GPT2LMHeadModel:
    """A Hugging Face GPT-2 with weights large enough to matter, saved to a directory."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(HFConfig(**settings, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(directory)
    return model


def config(**overrides: Any) -> Config:
    """The common configuration with dotted keys (written with __ for the dots) overridden."""
    raw = base()
    for dotted, value in overrides.items():
        *sections, key = dotted.split("__")
        section = raw
        for name in sections:
            section = section[name]
        section[key] = value
    return parse_config(raw.to_dict())
