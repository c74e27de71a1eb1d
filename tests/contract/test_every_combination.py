"""Every model, backend and kind of pipeline is held to the contract, or refused with the reason."""

from itertools import product
from typing import Any

import pytest
from contract_driving import case
from contract_rows import CLIP, CPU, FURTHER, KINDS, PICTURE, PLACEMENTS, STACKS, loaded

from backends import registry
from backends.base import Inputs
from backends.errors import InvalidRequest, Unsupported
from backends.micro import MODELS
from tests.micro.training.kinds import KINDS as MICRO

ASKED: dict[str, dict[str, Any]] = {"text": {}, "picture": PICTURE, "clip": CLIP}


def _refusal(backend: str, model: str, kind: str) -> tuple[type[Exception], str] | None:
    """What a backend says to a kind of pipeline that the model or the stack does not have."""
    image = MICRO[model].image
    if kind == "clip" and backend == "sat":
        return Unsupported, "always starts from pure noise"
    if kind == "clip" and image:
        return Unsupported, "gives the transformer no picture"
    if kind == "text" and image:
        return InvalidRequest, "image-to-video model|needs a picture"
    if kind == "picture" and not image:
        return InvalidRequest, "takes none"
    return None


def test_every_combination_is_run_or_refused() -> None:
    run = {(row.backend, row.model, "text") for row in [*STACKS, *PLACEMENTS]}
    for kind in [*KINDS, *FURTHER]:
        given = {"image": "picture", "video": "clip"}
        named = next((name for key, name in given.items() if key in kind.changes), "text")
        run.add((kind.row.backend, kind.row.model, named))
    for combination in product(registry.names(), MODELS, ASKED):
        assert (combination in run) == (_refusal(*combination) is None), combination


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("backend", registry.names())
def test_a_refusal_gives_its_reason(backend: str, model: str) -> None:
    offload = {"placement": "model_offload"} if backend == "diffusers_offload" else {}
    pipeline = loaded(backend, CPU | offload).open(model, CPU | offload)
    for kind, changes in ASKED.items():
        refusal = _refusal(backend, model, kind)
        if refusal is not None:
            with pytest.raises(refusal[0], match=refusal[1]):
                pipeline.prepare(case(64, **({"model": model, "frames": 17} | changes)), Inputs())
    pipeline.close()
