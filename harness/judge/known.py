"""Deliberate differences between the two code bases: named in every verdict, never hidden.

A row says which policy differs, what each side does, where that can be read, and which match factor
equalises it (None: nothing does, and in exact arithmetic nothing needs to). Only the values that the
two code bases really have are known: the same policy with any other value is a finding like all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records import Finding


@dataclass(frozen=True)
class KnownDifference:
    """One registered deliberate difference; `policy` is a field of `backends.base.Policies`.

    `between` says whether two values of it are those that the two code bases have, in either order.
    """

    id: str
    policy: str
    says: str
    source: str
    factor: str | None
    between: Callable[[Any, Any], bool]


def _either(*values: Any) -> Callable[[Any, Any], bool]:
    return lambda a, b: a in values and b in values


def _schedules(a: Any, b: Any) -> bool:
    return sorted(str(side).split(" ")[0] for side in (a, b)) == ["pick", "rescale"]


def _one_is_float32(a: Any, b: Any) -> bool:
    return "float32" in (a, b)


def _left_or_divided(a: Any, b: Any) -> bool:
    """The 1.5 models' latents as the VAE gives them, or divided by its factor, which is below 1."""
    return 1.0 in (a, b) and all(isinstance(side, float) and side >= 1.0 for side in (a, b))


KNOWN: tuple[KnownDifference, ...] = (
    KnownDifference(
        id="zero_snr_subset",
        policy="schedule",
        says="SAT picks the N timesteps and rescales those to zero terminal SNR; Diffusers rescales"
        " all 1000 and then picks, so alpha_bar differs by a few tenths of a percent; SAT's denoiser"
        " rounds it to the nearest of the full 1000 levels besides",
        source="CogVideo sat/sgm/modules/diffusionmodules/discretizer.py get_sigmas, denoiser.py"
        " possibly_quantize_sigma;"
        " diffusers scheduling_dpm_cogvideox.py rescale_zero_terminal_snr",
        factor="schedule",
        between=_schedules,
    ),
    KnownDifference(
        id="unconditional_branch",
        policy="unconditional",
        says="SAT's unconditional text embedding is all zeros; Diffusers encodes the negative prompt",
        source="CogVideo sat/sample_video.py force_uc_zero_embeddings;"
        " diffusers pipeline_cogvideox.py encode_prompt",
        factor="unconditional",
        between=_either("zeros", "text encoder of the negative prompt"),
    ),
    KnownDifference(
        id="sampler_state_dtype",
        policy="latent_dtype",
        says="SAT keeps the latents in float32 through the sampler; Diffusers rounds them to the text"
        " embedding's dtype after every step",
        source="CogVideo sat/sgm/modules/diffusionmodules/sampling.py;"
        " diffusers pipeline_cogvideox.py latents.to(prompt_embeds.dtype)",
        factor="latent_dtype",
        between=_one_is_float32,
    ),
    KnownDifference(
        id="image_scale",
        policy="image_scale",
        says="the latents of a conditioning picture are multiplied by 0.7 in the 1.0 models; in 1.5"
        " SAT leaves them as the VAE gives them and Diffusers divides them by 0.7",
        source="CogVideo sat/sample_video.py image / model.scale_factor;"
        " diffusers pipeline_cogvideox_image2video.py prepare_latents, invert_scale_latents",
        factor="image",
        between=_left_or_divided,
    ),
    KnownDifference(
        id="guidance_target",
        policy="guidance_target",
        says="SAT applies guidance to the predicted clean sample, Diffusers to the velocity; the two"
        " agree in exact arithmetic",
        source="CogVideo sat/sgm/modules/diffusionmodules/guiders.py;"
        " diffusers pipeline_cogvideox.py __call__",
        factor=None,
        between=_either("clean sample", "velocity"),
    ),
    KnownDifference(
        id="layer_norm_eps",
        policy="layer_norm_eps",
        says="the transformer's last layer norm uses eps 1e-6 in SAT and 1e-5 in Diffusers; the"
        " 1e-6 that SAT writes down for its blocks has no effect",
        source="CogVideo sat/dit_video_concat.py FinalLayerMixin; SwissArmyTransformer"
        " sat/transformer_defaults; diffusers cogvideox_transformer_3d.py norm_out",
        factor=None,
        between=_either(1e-5, 1e-6),
    ),
    KnownDifference(
        id="uint8_export",
        policy="frames_to_uint8",
        says="SAT's exporter truncates to uint8, Diffusers' image processor rounds; this harness"
        " rounds on both sides, so it does not enter the comparison",
        source="CogVideo sat/sample_video.py save_video_as_grid_and_mp4;"
        " diffusers image_processor.py numpy_to_pil",
        factor=None,
        between=_either("truncate", "round"),
    ),
)


def known_difference(policy: str, a: Any, b: Any) -> KnownDifference | None:
    """The registered difference of `policy` between values `a` and `b`; None for equal ones."""
    if a == b:
        return None
    return next((row for row in KNOWN if row.policy == policy and row.between(a, b)), None)


def equalised_by_match(policy: str) -> bool:
    """Whether a match factor decides `policy`, so that its own values matter only where not shared."""
    return any(row.policy == policy and row.factor is not None for row in KNOWN)


def acts(finding: Finding) -> bool:
    """Whether a known difference makes the two runs compute other things.

    One that no match factor equalises is equal in exact arithmetic, or is not used by this harness.
    """
    if finding.known is None:
        return False
    row = next((row for row in KNOWN if row.id == finding.known), None)
    return row is None or row.factor is not None


def acting(findings: Sequence[Finding]) -> list[KnownDifference]:
    """The registered differences among `findings` that a match factor would equalise, each once."""
    named = {finding.known for finding in findings}
    return [row for row in KNOWN if row.id in named and row.factor is not None]
