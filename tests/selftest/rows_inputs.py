"""Faults in what the transformer is given and what becomes of its result: text, schedule, noise,
guidance, solver, and the loop around them."""

from __future__ import annotations

from harness.records import Component, VerdictName
from tests.selftest.row import Fault
from tests.selftest.setting import FIVE, FIVE_BF16, TWO, TWO_BF16, Setting

_ANY = (TWO, FIVE)
_BACK = (FIVE, TWO)
_NEGATIVE = Setting("micro-2b", case=("negative_prompt='a blue square'",))
_ODD_STEPS = Setting("micro-2b", case=("steps=12",))


def _rows(
    file: str,
    component: Component,
    rows: tuple[tuple[str, str, tuple[Setting, ...], str | None, str | None], ...],
    also: tuple[Component, ...] = (),
    expected: tuple[VerdictName, ...] = ("bug",),
) -> tuple[Fault, ...]:
    """Rows (id, summary, settings, wrong config key, field)."""
    return tuple(
        Fault(
            name, component, summary, component, settings, f"tests.selftest.faults.{file}",
            also=also, config_key=key, field=field, expected=expected,
        )
        for name, summary, settings, key, field in rows
    )  # fmt: skip


_TEXT = _rows("text", "text", (
    ("text_without_end_token", "no end-of-text token", _ANY, None, "T07"),
    ("text_padding_is_end", "padded with the end-of-text token", _BACK, None, None),
    ("text_padded_left", "padding before the words", _ANY, None, None),
    ("text_cut", "cut after six tokens", _BACK, None, "T11"),
    ("text_shorter", "two tokens shorter than the model's length", (FIVE,), None, "T03"),
    ("text_unconditional_zero", "empty prompt becomes zeros", _ANY, None, "T04"),
    ("text_unconditional_word", "empty prompt becomes a word", _BACK, None, None),
    ("text_padding_zeroed", "padding's embeddings are zero", _ANY, None, None),
    ("text_padding_masked", "attention mask given to T5", _BACK, None, None),
    ("text_final_norm_missing", "T5 without its last norm", _ANY, None, None),
    ("text_last_block_missing", "T5 without its last block", _BACK, None, None),
    ("text_half", "T5 cast whole to float16", _ANY, None, "T01"),
    ("text_bf16", "embeddings rounded to bfloat16 in a float32 run", _BACK, None, None),
    ("text_activation", "T5 with gated ReLU", _ANY, None, None),
    ("text_position_buckets", "T5's distances bucketed for 16", _BACK, None, None),
    ("text_scaled", "embeddings 1 % too large", (TWO_BF16, TWO, FIVE), None, None),
))  # fmt: skip

_SCHEDULE = _rows("schedule", "schedule", (
    ("schedule_shift_of_5b", "the 5B's SNR shift in the 2B", (TWO,),
     "scheduler.snr_shift_scale", "C01"),
    ("schedule_shift_of_2b", "the 2B's SNR shift in the 5B", (FIVE,),
     "scheduler.snr_shift_scale", "C01"),
    ("schedule_shift_slightly_off", "SNR shift 1.02", (FIVE_BF16, FIVE),
     "scheduler.snr_shift_scale", None),
    ("schedule_linspace", "linspace timesteps", _ANY, "scheduler.timestep_spacing", "C02"),
    ("schedule_leading", "leading timesteps", _BACK, "scheduler.timestep_spacing", "C03"),
    ("schedule_without_zero_snr", "no zero terminal SNR", _ANY,
     "scheduler.rescale_betas_zero_snr", "C04"),
    ("schedule_linear_betas", "linear betas", _BACK, "scheduler.beta_schedule", None),
    ("schedule_beta_end", "last beta 0.02", _ANY, "scheduler.beta_end", None),
    ("schedule_last_alpha", "the last step ends on alpha-bar of t = 0", _BACK,
     "scheduler.set_alpha_to_one", None),
    ("schedule_table_late", "levels one index late", _ANY, None, None),
    ("schedule_table_bf16", "levels rounded to bfloat16", _BACK, None, None),
    ("schedule_middle_level", "one level 1 % too high", _ANY, None, None),
    ("schedule_one_timestep_off", "one timestep one too low", (TWO_BF16, TWO, FIVE), None, None),
    ("schedule_timesteps_floored", "timesteps cut off, not rounded", (_ODD_STEPS,), None, None),
), also=("solver",))  # fmt: skip

_CALLED = (
    *_rows("guidance", "guidance", (
        ("call_default_scale", "guidance scale 3.5, another default", _ANY, "guidance_scale", "G05"),
        ("call_dynamic_guidance", "dynamic guidance on one side", (TWO,), "dynamic_guidance", "G02"),
        ("call_constant_guidance", "constant guidance on one side", (FIVE,), "dynamic_guidance",
         "G02"),
    )),
    *_rows("guidance", "text", (
        ("call_negative_prompt_dropped", "negative prompt dropped", (_NEGATIVE,),
         "negative_prompt", "T10"),
    ), also=("guidance",)),
    *_rows("guidance", "solver", (
        ("call_ddim", "DDIM where DPM is expected", (FIVE,), "sampler", "S05"),
        ("call_dpm", "DPM where DDIM is expected", (TWO,), "sampler", None),
    ), also=("schedule",)),
    *_rows("guidance", "schedule", (
        ("call_one_step_less", "seven steps where eight are asked", _ANY, "steps", None),
    ), also=("loop",)),
    *_rows("schedule", "solver", (
        ("schedule_epsilon", "velocity taken for noise", (FIVE,), "scheduler.prediction_type",
         "C06"),
    ), also=("schedule",), expected=("broken",)),  # noise at zero SNR has no clean sample: 0 / 0
    *_rows("schedule", "solver", (
        ("schedule_sample", "velocity taken for the clean sample", _ANY,
         "scheduler.prediction_type", None),
    ), also=("schedule",)),
)  # fmt: skip

_GUIDANCE = _rows("guidance", "guidance", (
    ("guidance_branches_swapped", "branches exchanged", _ANY, None, None),
    ("guidance_from_conditional", "added to the conditional branch", _BACK, None, None),
    ("guidance_off_at_last_step", "off in the last step", (TWO_BF16, TWO), None, None),
    ("guidance_off_at_first_step", "off in the first step", _BACK, None, None),
    ("guidance_late_off", "off in the second half", _ANY, None, None),
    ("guidance_rounded", "scale cut to a whole number", (FIVE,), None, None),
    ("guidance_one_percent", "scale 1 % too large", (FIVE_BF16, FIVE, TWO), None, None),
    ("guidance_by_step_index", "dynamic scale from the step's index", (FIVE,), None, "G01"),
    ("guidance_timestep_late", "dynamic scale from t - 1", (FIVE,), None, None),
    ("guidance_exponent", "dynamic scale with exponent 1", (FIVE,), None, None),
))  # fmt: skip

_NOISE = _rows("noise", "noise", (
    ("noise_other_seed", "all noise of another seed", (TWO_BF16, TWO, FIVE), None, "P03"),
    ("noise_other_initial", "initial noise of another seed", _ANY, None, "O03"),
    ("noise_one_draw_shifted", "step noise one step ahead", (FIVE,), None, "S04"),
    ("noise_first_of_two", "the first of two draws used", (FIVE, FIVE_BF16), None, "S04"),
    ("noise_reused", "every step gets the same noise", (FIVE,), None, None),
    ("noise_one_step_foreign", "step 3's noise of another seed", (FIVE_BF16, FIVE), None, None),
    ("noise_weak", "standard deviation 0.98", _ANY, None, None),
    ("noise_bf16", "drawn in bfloat16", _BACK, None, "P03"),
    ("noise_frames_reversed", "latent frames reversed", _ANY, None, None),
    ("noise_transposed", "rows and columns exchanged", _BACK, None, None),
    ("noise_layout", "drawn in another layout", _ANY, None, None),
    ("noise_frames_equal", "the same noise in every latent frame", (TWO,), None, None),
    ("noise_truncated", "cut at two standard deviations", _BACK, None, None),
    ("noise_biased", "mean 0.02", (TWO_BF16, TWO), None, None),
    ("noise_sigma", "initial sigma 0.98", (TWO,), None, "S08"),
))  # fmt: skip

_SOLVER = _rows("solver", "solver", (
    ("solver_first_order", "DPM without its second order", (FIVE,), None, "S02"),
    ("solver_old_sample_stale", "DPM extrapolates from the first clean sample", (FIVE,), None, "S02"),
    ("solver_epsilon_at_last_step", "velocity taken for noise in the last step", _ANY, None, None),
    ("solver_clean_clipped", "clean sample clipped to [-1, 1]", _BACK, "scheduler.clip_sample", None),
    ("solver_velocity_bf16", "velocity rounded to bfloat16 in a float32 run", _ANY, None, None),
    ("solver_result_bf16", "result rounded to bfloat16 in a float32 run", _BACK, None, None),
    ("solver_result_scaled", "every result 0.2 % too large", (TWO_BF16, TWO), None, None),
    ("solver_middle_step", "step 4's result 1 % too large", (FIVE_BF16, FIVE, TWO), None, None),
    ("solver_last_step_skipped", "last step skipped", _ANY, None, None),
    ("solver_first_step_noise_kept", "1 % of the latents kept in the first step", _BACK, None, None),
    ("solver_extrapolation_halved", "DPM extrapolates half as far", (FIVE,), None, None),
    ("solver_without_noise", "DPM without its noise", (FIVE,), None, None),
)) + _rows("solver", "solver", (
    ("solver_noise_weak", "DPM's noise 2 % too weak", (FIVE_BF16, FIVE), None, None),
), also=("noise",))  # fmt: skip

_LOOP = _rows("loop", "loop", (
    ("loop_latents_bf16", "latents kept in bfloat16 in a float32 run", _ANY, None, None),
    ("loop_latents_clamped", "latents clamped to [-3, 3]", _BACK, None, None),
    ("loop_latents_normalised", "latents brought to unit variance", _ANY, None, None),
    ("loop_one_step_rounded", "latents rounded once, after step 5", _BACK, None, None),
    ("loop_frames_rolled", "latent frames rotated after step 2", _ANY, None, None),
    ("loop_last_result_scaled", "latents rescaled after the last step", _BACK, None, None),
    ("loop_patch_mended", "a corner overwritten after every step", _ANY, None, None),
    ("loop_prompt_lost", "prompt lost from step 4 on", _BACK, None, None),
    ("loop_prompt_faded", "text loses 1 % a step", _ANY, None, None),
    ("loop_timestep_late", "the step before's timestep", _BACK, None, "X21"),
    ("loop_noise_rescaled", "initial noise scaled by 0.98", (TWO,), None, "S08"),
))  # fmt: skip

ROWS = (*_TEXT, *_SCHEDULE, *_CALLED, *_GUIDANCE, *_NOISE, *_SOLVER, *_LOOP)
