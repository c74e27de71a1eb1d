"""What finished renders handed to their components, as the store keeps it."""

from __future__ import annotations

import json

import numpy as np

from harness.errors import StoreError
from harness.judge.arguments import read_calls
from harness.judge.native_arguments import Handed
from harness.probe.native import inputs_used, schedule_used
from harness.records import RenderRecord
from harness.store.store import Store


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
