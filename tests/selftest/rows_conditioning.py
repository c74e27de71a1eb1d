"""Faults of image-to-video and of CogVideoX 1.5."""

from __future__ import annotations

from harness.records import Component
from tests.selftest.row import Fault
from tests.selftest.setting import (
    IMAGE,
    IMAGE_BF16,
    LATER,
    LATER_IMAGE,
    LATER_IMAGE_BF16,
    Setting,
)

_ANY = (IMAGE, LATER_IMAGE)
_BACK = (LATER_IMAGE, IMAGE)


def _row(
    name: str,
    summary: str,
    component: Component,
    settings: tuple[Setting, ...],
    field: str | None,
    block: str | None = None,
    key: str | None = None,
    also: tuple[Component, ...] = (),
) -> Fault:
    return Fault(
        name, "conditioning", summary, component, settings, "tests.selftest.faults.conditioning",
        block=block, config_key=key, field=field, also=also,
    )  # fmt: skip


ROWS = (
    _row("image_scale_not_inverted", "the 1.5 picture scaled as a 1.0 one", "image_encoder",
         (LATER_IMAGE,), "I01", key="vae.invert_scale_latents"),
    _row("image_scaled_twice", "picture scaled once more", "image_encoder", _ANY, "I01"),
    _row("image_is_noise", "faint noise in place of the picture", "image_encoder", _BACK, "I02"),
    _row("image_augmented", "noise added to the picture", "image_encoder", (IMAGE_BF16, IMAGE), "I04"),
    _row("image_bgr", "picture read as BGR", "image_encoder", _BACK, "I09"),
    _row("image_half_range", "picture in [0, 1]", "image_encoder", _ANY, None),
    _row("image_mirrored", "picture mirrored", "image_encoder", _BACK, None),
    _row("image_bf16", "picture's latents in bfloat16 in a float32 run", "image_encoder", _ANY, "V12"),
    _row("image_padding_copied", "copies of the picture in place of zeros", "image_encoder", _BACK,
         "I05"),
    _row("image_on_last_frame", "picture on the last frame", "image_encoder", _ANY, "I05"),
    _row("image_first_copy_missing", "the padding frame is zeros", "image_encoder",
         (LATER_IMAGE_BF16, LATER_IMAGE), "I05"),
    _row("image_dropped", "picture dropped", "image_encoder", _ANY, "I12"),
    _row("image_mode", "the posterior's mean taken", "image_encoder", _BACK, "I10"),
    _row("image_missing_in_unconditional_branch", "unconditional branch without picture",
         "transformer", _ANY, "I07", also=("guidance", "image_encoder")),
    _row("ofs_zero", "ofs 0 in place of 2", "loop", (LATER_IMAGE,), "X12",
         key="ofs"),
    _row("ofs_one", "ofs 1 in place of 2", "loop", (LATER_IMAGE_BF16, LATER_IMAGE), "X12",
         key="ofs"),
    _row("ofs_is_timestep", "ofs fed with the timestep", "loop", (LATER_IMAGE,), "X12",
         key="ofs"),
    _row("patches_channels_last", "1.5 patches with channels last", "transformer",
         (LATER, LATER_IMAGE), "X13", "transformer.patch_embed"),
    _row("patches_frames_swapped", "frames of a 1.5 patch exchanged", "transformer",
         (LATER_IMAGE, LATER), None, "transformer.patch_embed"),
    _row("rope_resized", "1.5 positions resized, not sliced", "loop", (LATER, LATER_IMAGE),
         "C09", key="image_rotary_emb[0]"),
    _row("positions_not_loaded", "learned positions forwarded as None", "transformer", (IMAGE,),
         "W06", "transformer.patch_embed"),
    _row("positions_from_formula", "learned positions keep their initial values", "transformer",
         (IMAGE_BF16, IMAGE), "W06", "transformer.patch_embed"),
)  # fmt: skip
