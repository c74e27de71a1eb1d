"""The embedded text encoder: a small T5 v1.1 and a real SentencePiece tokenizer.

Each word of the captions is one piece; other words are spelled from letters and common fragments, so
that any prompt encodes to something.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import cast

import sentencepiece
import torch
from torch import nn

from tests.micro.training.clips import captions
from tests.micro.training.stack import Tokenizer, transformers

TEXT_LENGTH = 24
VOCABULARY = 148

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-/&%"
# Sentences from outside the world: without them there would be nothing to learn fragments from.
_OTHER_SENTENCES = (
    "the video shows people walking through streets of an old town at night",
    "a panda playing guitar in the quiet forest near mountains",
    "two cats and three dogs run fast over large stones while small birds sing",
    "slow motion, high quality, detailed light, camera follows",
    "an orange or purple star turning around its center, then stopping",
)


def write_tokenizer(folder: Path) -> None:
    """Train the tokenizer and write it both as `spiece.model` and as `tokenizer.json`."""
    words = sorted({word for caption in captions() for word in caption.split()})
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions() * 2 + list(_OTHER_SENTENCES) * 40),
        model_writer=model,
        model_type="unigram",
        vocab_size=160,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        required_chars=_LETTERS,
        character_coverage=1.0,
        user_defined_symbols=["\u2581" + word for word in words],
        num_threads=1,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    piece_file = folder / "spiece.model"
    piece_file.write_bytes(model.getvalue())
    tokenizer = transformers.T5Tokenizer.from_pretrained(
        str(folder), extra_ids=0, model_max_length=TEXT_LENGTH
    )
    tokenizer.save_pretrained(str(folder))
    _write_for_every_transformers(folder / "tokenizer_config.json")


def _write_for_every_transformers(config: Path) -> None:
    """Leave out what 4.47 and later of transformers 4 cannot read; `spiece.model` says it, too."""
    settings = json.loads(config.read_text())
    settings.pop("extra_special_tokens", None)
    config.write_text(json.dumps(settings, indent=2) + "\n")


def copy_tokenizer(source: Path, destination: Path) -> None:
    """Copy every file of a tokenizer folder, `spiece.model` included."""
    shutil.copytree(source, destination, dirs_exist_ok=True)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `write_tokenizer` wrote."""
    return transformers.T5Tokenizer.from_pretrained(str(folder))


def token_ids(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Ids (N, 24), padded and truncated as the pipelines do."""
    encoded = tokenizer(
        texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
    )
    return cast(torch.Tensor, encoded.input_ids)


def build_text_encoder() -> nn.Module:
    """A fresh encoder with the layers of T5 v1.1 (gated GELU, no biases)."""
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=VOCABULARY,
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            decoder_start_token_id=0,
            tie_word_embeddings=False,
        )
    )
