"""Tokenizers as functions: other files that turn every text into the same tokens are the same tokenizer.

`save_pretrained` writes a tokenizer's files anew whenever a model is saved, in the form of its own
version, so the files of a right conversion are seldom those that it was made from.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records import Finding

_RAW = "tokenizer.json"
_RANDOM = 300
"""Random texts, of characters of every plane and of pieces of the vocabulary; in some 0.3 s."""
_TEXTS = (
    "", " ", "a video", "A  video.", "  leading and trailing  ", "UPPER lower MiXed",
    "tab\tand\nnewline", "don't, won't; can't!", "1234567890 3.14 1e-5", "naïve café ümlaut ß",
    "e\u0301 against \u00e9", "\ufb01 \u00bd \u2460", "日本語のテキスト", "русский текст", "emoji 🎬",
    "zero\u200bwidth\ufeff", "</s> <pad> <unk> <extra_id_0>", "▁metaspace", "word " * 300,
)  # fmt: skip


def tokenizer_findings(a: Mapping[str, Path], b: Mapping[str, Path]) -> list[Finding]:
    """A finding for each tokenizer of two models' files that gives other tokens than the reference's."""
    return [
        Finding(
            kind="text", name=name, component="text", detail=f"{name}: {why}",
            remedy="copy the tokenizer that the text encoder was trained with",
        )
        for name in shared_tokenizers(a, b)
        if (why := difference(*(_folder(side, name) for side in (a, b)))) is not None
    ]  # fmt: skip


def not_opened(a: Mapping[str, Path], b: Mapping[str, Path], name: str) -> str | None:
    """Why the tokenizers called `name` cannot be compared as functions; None where both open."""
    for folder in (_folder(a, name), _folder(b, name)):
        try:
            _opened(folder)
        except Exception as error:  # transformers raises many kinds, those of its parts included
            return f"the tokenizer in {folder} does not load ({type(error).__name__})"
    return None


def shared_tokenizers(a: Mapping[str, Path], b: Mapping[str, Path]) -> list[str]:
    """The tokenizers that both models have, by their folders' names: `tokenizer`, `tokenizer_2`."""
    named = [{name.partition("/")[0] for name in side if "/" in name} for side in (a, b)]
    return sorted(name for name in named[0] & named[1] if name.startswith("tokenizer"))


def difference(a: Path, b: Path) -> str | None:
    """What tells the tokenizers in two folders apart; None where nothing does, or one does not open.

    Compared are the vocabularies, the special tokens, and the tokens of fixed and of random texts.
    """
    try:
        x, y = _opened(a), _opened(b)
    except Exception:  # said as something that was not compared
        return None
    texts = (*_TEXTS, *_random_texts(sorted(x.get_vocab())))
    if x.get_vocab() != y.get_vocab():
        mine, other = x.get_vocab(), y.get_vocab()
        odd = sorted(t for t in mine.keys() | other.keys() if mine.get(t) != other.get(t))
        return (
            f"{len(odd)} tokens have another number or are on one side alone, {odd[0]!r} among them"
        )
    if x.special_tokens_map != y.special_tokens_map:
        return f"the special tokens are {y.special_tokens_map}, not {x.special_tokens_map}"
    for text in texts:
        if x(text, verbose=False).input_ids != y(text, verbose=False).input_ids:
            return f"the text {text[:40]!r} has other tokens"
    return _as_written(a / _RAW, b / _RAW, texts)


def _as_written(a: Path, b: Path, texts: Sequence[str]) -> str | None:
    """The same of the files alone: some versions of transformers take but the vocabulary from them."""
    if not (a.is_file() and b.is_file()):
        return None
    from tokenizers import Tokenizer

    x, y = (Tokenizer.from_file(str(file)) for file in (a, b))
    for text in texts:
        if x.encode(text).ids != y.encode(text).ids:
            return f"by {_RAW} alone, the text {text[:40]!r} has other tokens"
    return None


def _folder(files: Mapping[str, Path], name: str) -> Path:
    return next(path for file, path in files.items() if file.startswith(f"{name}/")).parent


def _opened(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(  # type: ignore[reportUnknownMemberType]
        str(folder), local_files_only=True, trust_remote_code=False
    )


def _random_texts(pieces: list[str]) -> list[str]:
    source = random.Random(0)  # noqa: S311 - no secret
    planes = ((0x20, 0x7F), (0x80, 0x24F), (0x370, 0x52F), (0x3040, 0x30FF), (0x1F300, 0x1F64F))
    texts: list[str] = []
    for _ in range(_RANDOM):
        low, high = source.choice(planes)
        characters = [chr(source.randrange(low, high)) for _ in range(source.randrange(1, 20))]
        words = source.choices(pieces, k=source.randrange(0, 8))
        parts = [*characters, *(word.replace("▁", " ") for word in words)]
        source.shuffle(parts)
        texts.append("".join(parts))
    return texts
