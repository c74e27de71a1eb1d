"""Small renders on the embedded models."""

from dataclasses import dataclass
from typing import Any

from contract_driving import Driven, case, native

from backends.base import Identity, Pipeline
from backends.diffusers.adapter import DiffusersBackend

CASE = case(32, model="micro-5b", sampler="dpm")


def opened(model: str = "micro-5b", **options: Any) -> Pipeline:
    """A model on the CPU."""
    return DiffusersBackend().open(model, {"device": "cpu"} | options)


@dataclass(frozen=True)
class Full:
    """What every other way to run the model is compared with."""

    pipeline: Pipeline
    identity: Identity
    render: Driven


def opened_full() -> Full:
    pipeline = opened()
    return Full(pipeline, pipeline.identity(), native(pipeline, CASE))
