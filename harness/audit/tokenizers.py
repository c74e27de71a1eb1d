"""Tokenizers as functions: other files that turn every text into the same tokens are the same tokenizer.

`save_pretrained` writes a tokenizer's files anew whenever a model is saved, in the form of its own
version, so the files of a right conversion are seldom those that it was made from.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records import Finding

_RAW = "tokenizer.json"
_FITTED = 12
"""Tokens that texts are padded and cut to: the side on which that is done belongs to the function."""
_RANDOM = 300
"""Random texts, of characters of every plane and of pieces of the vocabulary; in some 0.3 s."""
_TEXTS = (
    "", " ", "a video", "A  video.", "  leading and trailing  ", "UPPER lower MiXed",
    "tab\tand\nnewline", "don't, won't; can't!", "1234567890 3.14 1e-5", "naïve café ümlaut ß",
    "e\u0301 against \u00e9", "\ufb01 \u00bd \u2460", "日本語のテキスト", "русский текст", "emoji 🎬",
    "zero\u200bwidth\ufeff", "</s> <pad> <unk> <extra_id_0>", "▁metaspace", "word " * 300,
)  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """Two tokenizers of one `name`: what tells them apart, or why they could not be compared."""

    name: str
    difference: str | None = None
    unopened: str | None = None

    def finding(self) -> Finding | None:
        """The difference as a finding."""
        if self.difference is None:
            return None
        return Finding(
            kind="text", name=self.name, component="text", detail=f"{self.name}: {self.difference}",
            remedy="copy the tokenizer that the text encoder was trained with",
        )  # fmt: skip


def compared_tokenizers(
    a: Mapping[str, Path], b: Mapping[str, Path], unlike: Iterable[str]
) -> list[Compared]:
    """The tokenizers that both models have and of which a file is `unlike`, compared as functions.

    `a` and `b` are the models' files by name; a tokenizer is a folder (`tokenizer`, `tokenizer_2`).
    """
    named = {name.partition("/")[0] for name in unlike if name.startswith("tokenizer")}
    return [
        _compared(name, a, b) for name in sorted(named) if _folder(a, name) and _folder(b, name)
    ]


def _compared(name: str, a: Mapping[str, Path], b: Mapping[str, Path]) -> Compared:
    folders = [folder for side in (a, b) if (folder := _folder(side, name))]
    try:
        return Compared(name, difference(*folders))
    except Exception as error:  # transformers raises many kinds, those of its parts included
        why = (str(error).strip().splitlines() or ["no reason given"])[0]
        return Compared(name, unopened=f"does not load ({type(error).__name__}: {why})")


def difference(a: Path, b: Path) -> str | None:
    """What tells the tokenizers in two folders apart; None where nothing does.

    Compared are the vocabularies, the special tokens, and the tokens of fixed and of random texts, as
    they come and padded and cut. Raises what transformers raises for a folder that does not load.
    """
    x, y = _opened(a), _opened(b)
    mine, other = x.get_vocab(), y.get_vocab()
    if mine != other:
        odd = sorted(t for t in mine.keys() | other.keys() if mine.get(t) != other.get(t))
        return (
            f"{len(odd)} tokens have another number or are on one side alone, {odd[0]!r} among them"
        )
    if x.special_tokens_map != y.special_tokens_map:
        return f"the special tokens are {y.special_tokens_map}, not {x.special_tokens_map}"
    texts = (*_TEXTS, *_random_texts(sorted(mine)))
    fitted: dict[str, Any] = {"padding": "max_length", "truncation": True, "max_length": _FITTED}
    for text in texts:
        for how, given in (("", {}), (" when padded and cut", fitted)):
            if x(text, verbose=False, **given).data != y(text, verbose=False, **given).data:
                return f"the text {text[:40]!r} has other tokens{how}"
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


def _folder(files: Mapping[str, Path], name: str) -> Path | None:
    return next((path.parent for file, path in files.items() if file.startswith(f"{name}/")), None)


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
