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
    `magnitude` bounds what it explains, where that is a distance and not a choice between values; beyond
    it a difference is a finding like all others.
    """

    id: str
    policy: str
    says: str
    source: str
    factor: str | None
    between: Callable[[Any, Any], bool]
    magnitude: float | None = None


def _either(*values: Any) -> Callable[[Any, Any], bool]:
    return lambda a, b: a in values and b in values


def _schedules(a: Any, b: Any) -> bool:
    return sorted(str(side).split(" ")[0] for side in (a, b)) == ["pick", "rescale"]


def _one_is_float32(a: Any, b: Any) -> bool:
    return "float32" in (a, b)


def _left_or_divided(a: Any, b: Any) -> bool:
    """The 1.5 models' latents as the VAE gives them, or divided by its factor, which is below 1."""
    return 1.0 in (a, b) and all(isinstance(side, float) and side >= 1.0 for side in (a, b))


SUBSET_GAP = 0.09
"""Of sqrt(alpha_bar), relative, divided by the number of steps. Measured where that divides the training
steps: 0.084 at 5 steps, 0.07 at 8, 0.05 at 50. At 30, where it does not, 1.04."""

KNOWN: tuple[KnownDifference, ...] = (
    KnownDifference(
        id="zero_snr_subset",
        policy="schedule",
        says="SAT picks the N timesteps and rescales those to zero terminal SNR; Diffusers rescales"
        " all 1000 and then picks, so sqrt(alpha_bar) differs by up to 9 % divided by the number of"
        " steps (0.2 % at 50); SAT's denoiser rounds it to the nearest of the full 1000 levels besides",
        source="CogVideo sat/sgm/modules/diffusionmodules/discretizer.py get_sigmas, denoiser.py"
        " possibly_quantize_sigma;"
        " diffusers scheduling_dpm_cogvideox.py rescale_zero_terminal_snr",
        factor="schedule",
        between=_schedules,
        magnitude=SUBSET_GAP,
    ),
    KnownDifference(
        id="uneven_steps",
        policy="schedule itself",
        says="Diffusers steps by T // N training steps, so where N does not divide T a step ends at"
        " another level than the next begins with, and the last may not end on the clean video",
        source="diffusers scheduling_ddim_cogvideox.py and scheduling_dpm_cogvideox.py, step:"
        " prev_timestep = timestep - num_train_timesteps // num_inference_steps",
        factor=None,
        between=_either(),
    ),
    KnownDifference(
        id="noise_generator",
        policy="noise generator",
        says="SAT draws from the process's own generator; Diffusers from the one that its caller passes",
        source="CogVideo sat/sgm/modules/diffusionmodules/sampling.py torch.randn_like;"
        " diffusers scheduling_dpm_cogvideox.py randn_tensor(generator=generator)",
        factor=None,
        between=_either(),
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
    if finding.known is None or finding.declared:
        return False
    row = next((row for row in KNOWN if row.id == finding.known), None)
    return row is None or row.factor is not None


def acting(findings: Sequence[Finding]) -> list[KnownDifference]:
    """The registered differences among `findings` that a match factor would equalise, each once."""
    named = {finding.known for finding in findings}
    return [row for row in KNOWN if row.id in named and row.factor is not None]
