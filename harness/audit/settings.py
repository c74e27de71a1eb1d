"""Findings about settings: the keys in which two checkpoints differ, and what each one does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from backends.checkpoints import SCHEDULERS
from harness.audit.families import FAMILIES, TRAINED, is_cogvideox, recognise
from harness.audit.places import record_component
from harness.records import Finding

if TYPE_CHECKING:
    from backends.checkpoints import Source

_MEANINGS = {
    "vae.scaling_factor": "latents are divided by it before decoding: too large a factor gives"
    " blurred, low-contrast video",
    "vae.invert_scale_latents": "decides whether image latents are multiplied or divided by the"
    " scaling factor",
    "scheduler.snr_shift_scale": "shifts the noise schedule: the wrong one gives noise (2B) or soft"
    " video (5B)",
    "scheduler.timestep_spacing": "chooses the timesteps: other spacings leave residual noise",
    "scheduler.rescale_betas_zero_snr": "without it brightness and contrast shift",
    "scheduler.prediction_type": "CogVideoX predicts velocity; anything else gives noise",
    "scheduler._class_name": "another solver, which may ignore CogVideoX's own keys",
    "transformer.use_rotary_positional_embeddings": "positions are rotated (5B) or added (2B); the"
    " wrong one loses all structure",
    "transformer.spatial_interpolation_scale": "divides positions in the sin-cos table",
    "transformer.temporal_interpolation_scale": "divides positions in the sin-cos table",
    "transformer.sample_height": "base size of the position table",
    "transformer.sample_width": "base size of the position table",
    "transformer.sample_frames": "number of frames that the model was trained for",
    "transformer.max_text_seq_length": "number of text tokens, and where the video's positions begin",
    "transformer.norm_eps": "epsilon of all layer norms",
    "text_encoder.layer_norm_epsilon": "epsilon of T5's norms",
}
_UNUSED = frozenset(
    {"vae.force_upcast", "vae.sample_height", "vae.sample_width", "scheduler.clip_sample_range",
     "scheduler.sample_max_value", "text_encoder.use_cache", "text_encoder.initializer_factor",
     "transformer.dropout", "text_encoder.dropout_rate", "text_encoder.classifier_dropout",
     "pipeline.tokenizer"}
)  # fmt: skip
"""Keys that do not change a plain render: the VAE's sample size decides the tile size only."""


def differing(a: Source, b: Source) -> dict[str, dict[str, Any]]:
    """Keys that both sides state, with unlike values: key to {reference, candidate}.

    What only one side can say is left out; a pipeline folder says everything, by defaults.
    """
    if a.configs is None or b.configs is None:
        return {}
    both = set(a.configs) & set(b.configs)
    if "sat" not in (a.kind, b.kind):
        whole = a.kind == b.kind == "diffusers"
        shared = {key.partition(".")[0] for key in a.configs}
        shared &= {key.partition(".")[0] for key in b.configs}
        alone = set(a.configs) ^ set(b.configs)
        both |= {key for key in alone if whole or key.partition(".")[0] in shared}
    both.discard("pipeline.scheduler")  # the scheduler's own file names its class
    return {
        key: {"reference": a.configs.get(key), "candidate": b.configs.get(key)}
        for key in sorted(both)
        if not _same(a.configs.get(key), b.configs.get(key))
    }


def setting_findings(keys: Mapping[str, Mapping[str, Any]], a: Source, b: Source) -> list[Finding]:
    """A finding for every one of `keys`, which differ between `a` and `b`, that changes a render, the
    family's own facts first."""
    found = [
        _finding(key, values["reference"], values["candidate"], b)
        for key, values in keys.items()
        if not _unused(key, values, a, b)
    ]
    return sorted(found, key=lambda finding: finding.name not in _MEANINGS)


def unused_keys(keys: Mapping[str, Mapping[str, Any]], a: Source, b: Source) -> list[str]:
    """Those of `keys`, which differ between `a` and `b`, that change nothing in a render."""
    return [key for key, values in keys.items() if _unused(key, values, a, b)]


def _unused(key: str, values: Mapping[str, Any], a: Source, b: Source) -> bool:
    """A case names its own solver, which replaces a folder's if that is one of CogVideoX's."""
    solvers = key == "scheduler._class_name" and all(v in SCHEDULERS for v in values.values())
    return key in _UNUSED or solvers or _only_absent_rotary(key, b, a)


def own_faults(settings: Mapping[str, Any], which: str) -> Iterable[Finding]:
    """Settings of one checkpoint that are not those of its own family, whatever the other says."""
    if "transformer._class_name" not in settings or not is_cogvideox(settings):
        return
    family = recognise(settings)
    wanted: dict[str, Any] = dict(TRAINED)
    if family is not None:
        wanted["vae.scaling_factor"] = family.scaling_factor
        wanted["scheduler.snr_shift_scale"] = family.snr_shift_scale
    for key, value in wanted.items():
        came = settings.get(key)
        if came is None or _same(came, value):
            continue
        of = family.name if family else "every CogVideoX model"
        yield Finding(
            kind="config",
            name=key,
            detail=f"{which}: {key} is {came}{_whose(key, came)}, but {of} has {value}:"
            f" {_MEANINGS[key]}",
            reference=value,
            candidate=came,
            component=_component(key),
            remedy=f"set {key} to {value} in {_file(key)}",
        )


def _finding(key: str, reference: Any, candidate: Any, b: Source) -> Finding:
    ours = is_cogvideox(b.configs or {})
    meaning = _MEANINGS.get(key) if ours else None
    whose = _whose(key, candidate) if ours else ""
    return Finding(
        kind="config",
        name=key,
        detail=f"{key} is {_shown(candidate)}{whose} in the candidate and"
        f" {_shown(reference)} in the reference{': ' + meaning if meaning else ''}",
        reference=reference,
        candidate=candidate,
        component=_component(key),
        remedy=f"Set it to {_shown(reference)} in {_file(key)}"
        + (" (or in the YAML's own key)" if b.kind == "sat" else ""),
    )


def _component(key: str) -> Any:
    return record_component(key)


def _whose(key: str, value: Any) -> str:
    """Which family's value it is, where it is one that families differ in."""
    name = key.rpartition(".")[2]
    owners = [
        family.name for family in FAMILIES
        if name in ("scaling_factor", "snr_shift_scale") and _same(getattr(family, name), value)
    ]  # fmt: skip
    return f" (that of {', '.join(owners)})" if owners else ""


def _only_absent_rotary(key: str, a: Source, b: Source) -> bool:
    """Interpolation scales divide the sin-cos table; a model with rotary positions reads none."""
    rotary = "transformer.use_rotary_positional_embeddings"
    return "_interpolation_scale" in key and all(
        bool((side.configs or {}).get(rotary)) for side in (a, b)
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return type(a) is bool and a == b if isinstance(a, bool) else float(a) == float(b)
    return a == b


def _shown(value: Any) -> str:
    return "absent" if value is None else repr(value)


def _file(key: str) -> str:
    component = key.partition(".")[0]
    return {
        "pipeline": "model_index.json",
        "scheduler": "scheduler/scheduler_config.json",
    }.get(component, f"{component}/config.json")
