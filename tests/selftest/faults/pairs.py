"""Two defects at once, in different components; a patch `a+b` plants `a` and then `b`."""

from __future__ import annotations

from importlib import import_module

from backends.base import Pipeline
from backends.worker.patches import apply, patch

# A pair's patch applies two others, so the modules that register those are loaded with this one.
for _file in (
    "weights", "positions", "attention", "blocks", "text", "schedule", "guidance", "noise", "solver",
    "loop", "decoder", "precision", "frames",
):  # fmt: skip
    import_module(f"tests.selftest.faults.{_file}")

PAIRS: tuple[tuple[str, str], ...] = (
    ("weights_value_bias_lost", "decoder_gain"),
    ("weights_head_lost", "text_scaled"),
    ("activation_exact", "noise_biased"),
    ("table_frame_late", "guidance_one_percent"),
    ("attention_scale_in_block_3", "solver_middle_step"),
    ("text_cut", "decoder_channel_bias"),
    ("text_without_end_token", "schedule_shift_of_5b"),
    ("schedule_one_timestep_off", "frames_gain"),
    ("noise_weak", "decoder_latents_clamped"),
    ("guidance_off_at_last_step", "frames_flicker"),
    ("weights_decoder_bias_lost", "time_off_by_one"),
    ("rope_theta", "decoder_scaling_factor"),
    ("rope_shifted", "guidance_rounded"),
    ("residual_scaled", "noise_first_of_two"),
    ("gate_dropped", "text_padding_masked"),
    ("precision_block_fp8", "solver_noise_weak"),
    ("solver_first_order", "decoder_norm_groups"),
    ("noise_one_step_foreign", "frames_duplicated"),
    ("text_scaled", "guidance_one_percent"),
    ("schedule_shift_slightly_off", "weights_row_lost"),
    ("loop_latents_bf16", "norm_epsilon"),
    ("solver_clean_clipped", "attention_exponent_base"),
)
"""On which model each is live is said in `tests/selftest/rows_pairs.py`; a test holds them equal."""


def _register(first: str, second: str) -> None:
    def plant(pipeline: Pipeline) -> Pipeline:
        return apply(second, apply(first, pipeline))

    patch(f"{first}+{second}")(plant)


for _pair in PAIRS:
    _register(*_pair)
