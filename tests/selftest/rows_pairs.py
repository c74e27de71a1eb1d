"""Two faults at once, of different components: both should be named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.selftest.row import Fault
from tests.selftest.setting import FIVE, TWO, Setting

ON_TWO = (
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
)
ON_FIVE = (
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


@dataclass(frozen=True)
class Pair:
    """Two faults planted together; `overrides` composes their run, as a fault's do."""

    first: Fault
    second: Fault
    setting: Setting
    plugin: str = "tests.selftest.faults.pairs"

    @property
    def id(self) -> str:
        """The patch's name."""
        return f"{self.first.id}+{self.second.id}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides of the run; the patch's name is quoted for Hydra."""
        return self.setting.overrides(f"patch='{self.id}'")


def make(rows: Sequence[Fault]) -> tuple[Pair, ...]:
    """The pairs, from the catalogue's single faults."""
    by_id = {row.id: row for row in rows}
    return tuple(
        Pair(by_id[first], by_id[second], setting)
        for setting, names in ((TWO, ON_TWO), (FIVE, ON_FIVE))
        for first, second in names
    )
