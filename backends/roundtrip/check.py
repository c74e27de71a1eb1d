"""The verdict on a round trip: which stage changed what, and what the model then computes.

load      the folder before against what the stack has in memory
step      memory before against after one AdamW step with learning rate 0
save      memory against the folder after
reload    the folder after against what the stack's own load makes of it
weights   the folder before against the folder after
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import DTYPES, Pipeline
from backends.checkpoints import LazyTensors, digest
from backends.checkpoints.report import Format
from backends.checkpoints.tensors import dtype_name
from backends.errors import BackendError, InvalidRequest
from backends.roundtrip.compare import Change, compare_settings, compare_tensors, matters
from backends.roundtrip.drive_diffusers import DiffusersDriver
from backends.roundtrip.drive_sat import SatDriver
from backends.roundtrip.function import (
    Natural,
    distance,
    guided_call,
    natural_sizes,
    recorded_call,
)
from backends.roundtrip.models import lora_folder, model_folder, overlay, sat_base_of
from backends.roundtrip.saved import Saved, comparable, component, read_saved


@dataclass(frozen=True)
class RoundTrip:
    """What to do. With `before` and `after` two folders are compared, else a step is driven.

    `model` is the model that a LoRA belongs to, or the one to fine-tune; `lora` the LoRA to start
    from (None: a fresh one). `dtype` None takes the stored one. `metadata=False` saves a LoRA
    without what keeps its alpha. `keep` is where the folders of a driven step stay.
    """

    model: str | None
    backend: Format | None = None
    mode: str = "full"
    lora: str | None = None
    dtype: str | None = None
    device: str = "auto"
    metadata: bool = True
    before: str | None = None
    after: str | None = None
    keep: str | None = None


def check(asked: RoundTrip) -> dict[str, Any]:
    """Carry out a round trip or compare a pair; plain types, for `harness.audit.roundtrip`.

    Raises `InvalidRequest` for what cannot be asked, `CheckpointError` for a folder that cannot be
    read at all. A folder *after* that no stack loads is a finding, not an error.
    """
    if asked.dtype not in (None, *DTYPES):
        raise InvalidRequest(f"dtype={asked.dtype!r}; expected one of {', '.join(DTYPES)}")
    with tempfile.TemporaryDirectory(prefix="parity-roundtrip-") as scratch:
        if asked.before is not None and asked.after is not None:
            return _pair(asked, Path(asked.before), Path(asked.after), Path(scratch))
        return _driven(asked, Path(scratch))


def _driven(asked: RoundTrip, scratch: Path) -> dict[str, Any]:
    if asked.model is None or asked.backend is None or asked.mode not in ("full", "lora"):
        raise InvalidRequest("a driven round trip needs a model, a backend, and mode full or lora")
    model = model_folder(asked.model, asked.backend, scratch)
    sizes = natural_sizes(model)
    lora = None
    if asked.mode == "lora":
        lora = lora_folder(asked.lora, sizes, asked.backend, scratch)
    before = _before(model, lora, asked.backend)
    options = {"dtype": asked.dtype or _widest(before), "device": asked.device}
    driver = _driver(asked.backend)(model, lora, options, asked.metadata)
    after = (Path(asked.keep) if asked.keep else scratch) / "after"
    if after.exists():
        raise InvalidRequest(f"{after} exists; name a new folder to keep the round trip in")
    stages: dict[str, list[Change]] = {}
    pipeline: Pipeline = driver.open()
    try:
        first, again = recorded_call(pipeline, driver.network(pipeline), sizes)
        state = driver.state(pipeline)
        stages["load"] = _judged(compare_tensors(_named_in(before.tensors, state), state))
        digests = {name: digest(tensor) for name, tensor in state.items()}
        step = zero_rate_step(driver.trainable(pipeline), again)
        state = driver.state(pipeline)
        stages["step"] = _moved(digests, state)
        driver.save(pipeline, after)
        saved = read_saved(after)
        stages["save"] = compare_tensors(state, _named_in(saved.tensors, state))
    finally:
        pipeline.close()
    result = _result(asked, asked.backend, before, saved)
    second, why = None, None
    try:
        pipeline = driver.open_saved(after)
        try:
            second = guided_call(pipeline, sizes)
            state = driver.state(pipeline)
            stages["reload"] = compare_tensors(_named_in(saved.tensors, state), state)
        finally:
            pipeline.close()
    except BackendError as error:
        why = str(error)
    result |= {"stages": {name: _records(found) for name, found in stages.items()}, "step": step}
    result |= {"options": options, "function": _function(first, second, why)}
    # What was made for the occasion is gone by now, so it is named by what it was made of.
    fresh = f"a fresh LoRA of {asked.model}" if lora is not None else asked.model
    result["before"] = asked.lora or fresh
    return _finished(result, any(matters(found) for found in stages.values()))


def _pair(asked: RoundTrip, before: Path, after: Path, scratch: Path) -> dict[str, Any]:
    old, new = read_saved(before), read_saved(after)
    if old.stack != new.stack:
        raise InvalidRequest(
            f"{before} is in {old.stack}'s format and {after} in {new.stack}'s; a round trip stays in"
            " one. Convert one with `parity convert`, or compare them with `parity audit`"
        )
    stack: Format = "sat" if old.stack == "sat" else "diffusers"
    if (old.shape == "lora") != (new.shape == "lora") and stack == "diffusers":
        raise InvalidRequest(f"one of {before} and {after} is a LoRA and the other a model")
    result = _result(asked, stack, old, new)
    sizes: Natural | None = None
    outputs: list[Tensor | None] = []
    options = {"dtype": asked.dtype or _widest(old), "device": asked.device}
    why = None
    for number, side in enumerate((old, new)):
        try:
            folder, lora = _runnable(side, old, asked.model, stack, scratch / str(number))
            sizes = sizes or natural_sizes(folder)
            outputs.append(_call(stack, folder, lora, options, sizes))
        except BackendError as error:
            outputs.append(None)
            why = why or f"{'after' if number else 'before'}: {error}"
    first, second = outputs
    result |= {"stages": {}, "step": None, "options": options}
    result["function"] = _function(first, second, why)
    return _finished(result, False)


def _before(model: Path, lora: Path | None, stack: Format) -> Saved:
    """What the folder after must hold: of a LoRA in Diffusers' format the LoRA, in SAT's both."""
    whole = read_saved(model)
    if lora is None:
        return whole
    part = read_saved(lora)
    if stack == "diffusers":
        return part
    both = {name: whole.tensors.loader(name) for name in whole.tensors}
    both |= {name: part.tensors.loader(name) for name in part.tensors}
    return Saved(part.path, "lora", LazyTensors(both), part.settings, {})


def _runnable(
    side: Saved, old: Saved, model: str | None, stack: Format, scratch: Path
) -> tuple[Path, Path | None]:
    """The model folder and the LoRA with which `side` runs."""
    scratch.mkdir(parents=True, exist_ok=True)
    if side.shape in ("diffusers_pipeline", "sat_model"):
        return side.path, None
    if model is not None:
        base = model_folder(model, stack, scratch)
    elif old.shape in ("diffusers_pipeline", "sat_model"):
        base = old.path
    else:
        raise InvalidRequest(
            f"{side.path} holds no whole model; name the one that it belongs to as MODEL"
        )
    if side.shape != "lora":
        return overlay(base, side.path, scratch / "model"), None
    own = [name for name in side.tensors if stack == "sat" and ".matrix_" not in name]
    if own:
        # SAT runs the model that lies beside the LoRA.
        base = sat_base_of(base, {name: side.tensors[name] for name in own}, scratch / "base")
    return base, side.path


def _call(
    stack: Format, model: Path, lora: Path | None, options: Mapping[str, Any], sizes: Natural
) -> Tensor:
    pipeline = _driver(stack)(model, lora, options, True).open()
    try:
        return guided_call(pipeline, sizes)
    finally:
        pipeline.close()


def _driver(stack: Format) -> Any:
    return SatDriver if stack == "sat" else DiffusersDriver


def zero_rate_step(parameters: list[nn.Parameter], output: Callable[[], Tensor]) -> dict[str, Any]:
    """One AdamW step with learning rate 0 on the mean square of the transformer's output."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=0.0)
    with torch.enable_grad():
        loss = output().float().square().mean()
        loss.backward()
    reached = sum(p.grad is not None and bool((p.grad != 0).any()) for p in parameters)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    for parameter in parameters:
        parameter.requires_grad_(False)
    return {"parameters": len(parameters), "with_gradient": reached, "loss": float(loss.detach())}


def _moved(before: Mapping[str, str], after: Mapping[str, Tensor]) -> list[Change]:
    names = tuple(name for name, tensor in after.items() if before[name] != digest(tensor))
    detail = "the optimiser wrote other bits although its learning rate is 0"
    return [Change("values", len(names), len(after), names, detail)] if names else []


def _named_in(tensors: LazyTensors, state: Mapping[str, Tensor]) -> LazyTensors:
    """Without the components that `state` does not hold."""
    whole = {name.partition("/")[0] for name in state if "/" in name}
    kept = [n for n in tensors if not whole or n.partition("/")[0] in whole]
    return LazyTensors({name: tensors.loader(name) for name in kept})


def _widest(saved: Saved) -> str:
    """The dtype that holds every floating tensor of the transformer or LoRA."""
    dtype: torch.dtype | None = None
    for name in saved.tensors:
        if component(name) != "transformer":
            continue
        found = saved.tensors[name].dtype
        dtype = found if dtype is None else torch.promote_types(dtype, found)
    name = "float32" if dtype is None else dtype_name(torch.empty(0, dtype=dtype))
    return name if name in DTYPES else "float32"


def _result(asked: RoundTrip, stack: Format, before: Saved, after: Saved) -> dict[str, Any]:
    expected, settings = comparable(before, after)
    changes = _judged(compare_tensors(expected, after.tensors, after.copies))
    changes += compare_settings(settings, after.settings)
    return {
        "backend": stack,
        "mode": "lora" if "lora" in (before.shape, after.shape) else "full",
        "model": asked.model,
        "before": str(before.path),
        "after": str(after.path) if asked.keep or asked.after else None,
        "compared": len(expected),
        "weights": _records(changes),
        "changed": matters(changes),
    }


def _function(before: Tensor | None, after: Tensor | None, why: str | None) -> dict[str, Any]:
    if before is None or after is None:
        return {"computed": False, "why": why}
    return {"computed": True, "why": None, **asdict(distance(before, after))}


def _finished(result: dict[str, Any], stages_changed: bool) -> dict[str, Any]:
    """`unchanged`, `changed`, or `undecided` where the function could not be computed."""
    changed, function = result.pop("changed"), result["function"]
    if changed or stages_changed or (function["computed"] and not function["bit_equal"]):
        outcome = "changed"
    else:
        outcome = "unchanged" if function["computed"] else "undecided"
    return {"outcome": outcome, **result}


def _judged(changes: list[Change]) -> list[Change]:
    """With the rounding of VAE and T5 told apart: SAT runs and saves them in the training dtype."""
    judged: list[Change] = []
    for change in changes:
        trained = tuple(name for name in change.names if component(name) == "transformer")
        frozen = tuple(name for name in change.names if component(name) != "transformer")
        if change.kind not in ("dtype", "rounded") or not frozen:
            judged.append(change)
            continue
        if trained:
            judged.append(replace(change, count=len(trained), names=trained))
        detail = (
            f"{change.detail}; VAE and T5 are not trained, and their own files stay as they are"
        )
        judged.append(Change("frozen", len(frozen), change.of, frozen, detail))
    return judged


def _records(changes: list[Change]) -> list[dict[str, Any]]:
    return [asdict(change) for change in changes]
