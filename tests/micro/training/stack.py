"""Diffusers and transformers without their published types, which are incomplete where this package
needs them (configs as plain dicts, tuples of one element, optional biases)."""

from importlib import import_module
from typing import Any

diffusers: Any = import_module("diffusers")
transformers: Any = import_module("transformers")

Vae = Any
"""A `diffusers.AutoencoderKLCogVideoX`."""

Tokenizer = Any
"""A `transformers.T5Tokenizer`."""
