"""A tokenizer, held against the text encoder that its tokens go to.

Another model's tokenizer opens in silence, and the video is of other words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from backends.errors import CheckpointError


def check_tokenizer(folder: Path, reader: Any, config: Any, encoder: Path) -> None:
    """Raise `CheckpointError` for a tokenizer in `folder` that is not the text encoder's.

    `reader` is its class in transformers, `config` the configuration of the encoder in `encoder`.
    """
    try:
        tokenizer = reader.from_pretrained(str(folder), local_files_only=True)
        tokens = cast("dict[str, int]", tokenizer.get_vocab())
        words = list(tokenizer("a video").input_ids)
    except Exception as error:  # transformers raises many kinds, those of its parts included
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise CheckpointError(
            f"the tokenizer in {folder} does not load ({type(error).__name__}: {first}); fetch its"
            " files again"
        ) from error
    rows, problem = int(config.vocab_size), None
    largest = max(tokens.values(), default=-1)
    if largest >= rows:
        problem = f"token {largest}, and the text encoder ({encoder}) has embeddings for {rows}"
    elif 2 * len(tokens) <= rows:
        # T5 has 32,100 tokens for 32,128 rows, UMT5 256,300 for 256,384: rows are rounded up only.
        problem = (
            f"{len(tokens)} tokens, and the text encoder ({encoder}) has embeddings for {rows}"
        )
    elif tokenizer.eos_token_id is None or words[-1:] != [tokenizer.eos_token_id]:
        problem = f"no end of a text: `a video` becomes {words}"
    elif set(words[:-1]) <= {tokenizer.unk_token_id}:
        problem = f"no word of `a video`, which becomes {words}"
    else:
        for name in ("pad_token_id", "eos_token_id"):
            mine, other = getattr(tokenizer, name), getattr(config, name, None)
            if mine is None or (type(other) is int and mine != other):
                problem = f"{name} {mine}, and the text encoder ({encoder}) {other}"
    if problem:
        raise CheckpointError(
            f"the tokenizer in {folder} has {problem}; it is another model's, or damaged. Copy the"
            " tokenizer that the text encoder was trained with"
        )
