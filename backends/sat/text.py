"""SAT's text conditioner: a T5 encoder, and zeros for the unconditional branch.

`sgm/modules/encoders/modules.py`: no attention mask, so padding takes part; the unconditional
embedding is all zeros, whatever the negative prompt says (`force_uc_zero_embeddings`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from backends.checkpoints.sound_parts import check_model
from backends.checkpoints.sound_tokenizer import check_tokenizer
from backends.checkpoints.trust import refuse_code, refuse_old_torch
from backends.errors import CheckpointError


class TextConditioner(nn.Module):
    """Tokenizer and T5 encoder in `dtype`.

    The encoder is read in float32 and then cast as a whole, as SAT does. Under fp16 that casts T5's
    `wo` too, which Diffusers keeps in float32.
    """

    def __init__(self, encoder: Path, tokenizer: Path, max_length: int, dtype: torch.dtype) -> None:
        super().__init__()
        from transformers import AutoTokenizer, T5EncoderModel

        self._max_length = max_length
        for folder in (encoder, tokenizer):
            refuse_code(folder)
        if pickled := next(iter(sorted(encoder.glob("*.bin"))), None):
            refuse_old_torch(pickled)
        described = check_model(encoder, T5EncoderModel)
        check_tokenizer(tokenizer, AutoTokenizer, described.config, encoder)
        try:
            self._tokenizer = cast(Any, AutoTokenizer).from_pretrained(
                str(tokenizer), local_files_only=True
            )
            loaded = cast(Any, T5EncoderModel).from_pretrained(str(encoder), local_files_only=True)
        except Exception as error:
            # transformers raises many kinds here, also those of safetensors and tokenizers.
            raise CheckpointError(
                f"cannot read the T5 encoder in {encoder} with the tokenizer in {tokenizer}: {error}."
                " CogVideo's sat/README.md says which files belong there (t5-v1_1-xxl)"
            ) from error
        self.encoder: nn.Module = loaded.float().eval().to(dtype)

    def is_cut(self, text: str) -> bool:
        """Whether `text` has more tokens than the model takes."""
        return len(self._tokenizer(text)["input_ids"]) > self._max_length

    def forward(self, text: str) -> Tensor:
        """Embedding (1, max_length, D) of `text`, padded or cut to `max_length` tokens."""
        tokens = self._tokenizer(
            [text],
            truncation=True,
            max_length=self._max_length,
            padding="max_length",
            return_tensors="pt",
        )
        device = next(self.encoder.parameters()).device
        return self.encoder(input_ids=tokens["input_ids"].to(device)).last_hidden_state
