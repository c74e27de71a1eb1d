"""What a finished render left in the store, read back: its trace, its inputs, its arguments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from backends.base import ScheduleTable
from harness.errors import StoreError
from harness.judge.arguments import read_calls
from harness.judge.measured import Array, OwnInputs
from harness.judge.native_arguments import Handed
from harness.records import RenderRecord
from harness.store.store import Store


def read_trace(store: Store, record: RenderRecord) -> dict[str, Array]:
    """A render's trace as float32 arrays. Raises `StoreError` when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # numpy has no bfloat16

    path = store.render_folder(record.key) / "trace.safetensors"
    try:
        return {name: tensor.float().numpy() for name, tensor in load_file(str(path)).items()}
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"the trace {path} is missing or damaged ({error}); delete its folder and render again"
        ) from error


def inputs_used(store: Store, record: RenderRecord, factor: str) -> Path:
    """The file that holds `factor` as a render was to use it: the reference's where that is shared."""
    key = record.inputs_key if factor in record.share else record.own_inputs_key
    return store.inputs_path(key or "")


def schedule_used(store: Store, record: RenderRecord) -> ScheduleTable:
    """The schedule that a render was to follow: the reference's where that is shared, else its own."""
    meta = json.loads(inputs_used(store, record, "schedule").with_suffix(".json").read_text())
    return ScheduleTable(**meta["schedule"])


def own_inputs(store: Store, record: RenderRecord) -> OwnInputs:
    """What the variant of a render makes itself of its case, shared with another or not.

    Raises `ValueError` for a render that exported none: one that is not finished.
    """
    from safetensors.torch import load_file

    if record.own_inputs_key is None:
        raise ValueError(f"render {record.key} has no exported inputs")
    path = store.inputs_path(record.own_inputs_key)
    tensors = {name: value.float().numpy() for name, value in load_file(str(path)).items()}
    meta = json.loads(path.with_suffix(".json").read_text())
    return OwnInputs(
        tensors["text"],
        tensors["negative_text"],
        ScheduleTable(**meta["schedule"]),
        meta["latent_dtype"],
        meta.get("image_scale"),
    )


def read_handed(store: Store, record: RenderRecord) -> Handed | None:
    """What a render handed to its components; None where that was not recorded.

    Raises `StoreError` when it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # numpy has no bfloat16

    path = store.render_folder(record.key) / "arguments.json"
    if not path.is_file():
        return None
    try:
        calls = json.loads(path.read_bytes())
        stored = load_file(str(path.with_suffix(".safetensors")))
    except (OSError, ValueError, SafetensorError) as error:
        raise StoreError(
            f"{path.parent} holds damaged arguments ({error}); delete the folder and render again"
        ) from error
    texts = [
        load_file(str(inputs_used(store, record, factor)))[name].float().numpy()
        for factor, name in (("unconditional", "negative_text"), ("text", "text"))
    ]
    tensors = {int(index): array.numpy() for index, array in stored.items()}
    return Handed(read_calls(calls, tensors), schedule_used(store, record), np.concatenate(texts))
