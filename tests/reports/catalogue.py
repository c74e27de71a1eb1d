"""The public reports that are recreated here, each with what a right answer is.

`says` are patterns that the answer as a person reads it must match, case ignored: the place, the key,
the advice. A report whose mechanism is our guess says so in `guess`.
"""

from __future__ import annotations

from dataclasses import dataclass

PASSES = ("bit_exact", "rounding")
STRUCK = ("bug", "broken")


@dataclass(frozen=True)
class Report:
    """One report: the fault in a line, the settings of a run that shows it, and the right answer.

    `settings` are `parity run` overrides, in which `{lora}` and `{scale_dropped}` stand for the folders
    of `made.py`. `verdicts` are those that are right, none where the setting is to be refused;
    `component` is the one that must lead.
    """

    name: str
    line: str
    settings: tuple[str, ...]
    verdicts: tuple[str, ...] = STRUCK
    component: str | None = None
    says: tuple[str, ...] = ()
    guess: bool = False


def _patched(name: str, case: str = "micro_2b_quick", *more: str) -> tuple[str, ...]:
    return f"case=[{case}]", f"candidates.diffusers.patch={name}", *more


def _with(*options: str, case: str = "micro_2b_quick") -> tuple[str, ...]:
    return f"case=[{case}]", *(f"candidates.diffusers.{option}" for option in options)


_RUN = "cases.micro_2b_quick."

REPORTS = (
    Report(
        "xDiT 512, vllm-omni 672", "padding for sequence parallelism is attended",
        _patched("xdit512_padded_keys_attended"), component="transformer", guess=True,
        says=(r"transformer_blocks\.0\.attn1",),
    ),
    Report(
        "VeOmni 1139", "floor division drops the remainder of the tokens",
        _patched("veomni1139_remainder_dropped"), component="transformer",
        says=(r"transformer_blocks\.0\.attn1",),
    ),
    Report(
        "diffusers 5313", "fuse and unfuse a bad LoRA: one NaN in a weight",
        _patched("diffusers5313_fused_and_unfused"), ("broken",), "transformer",
        (r"transformer_blocks\.1\.attn1\.to_q",),
    ),
    Report(
        "ComfyUI 15804", "one attention is NaN in some calls, by seed",
        _patched("comfy15804_nan_in_some_calls"), component="transformer",
        says=(r"transformer_blocks\.2\.attn1",),
    ),
    Report(
        "diffusers 8673, HunyuanVideo 275", "an attention mask is given to T5",
        _patched("diffusers8673_mask_given_to_t5"), component="text", says=("SelfAttention|mask",),
    ),
    Report(
        "diffusers 13534", "T5 left in train mode",
        _patched("diffusers13534_t5_in_train_mode"), component="text", says=("dropout",),
    ),
    Report(
        "CogVideo 123", "noise depends on the prompt's place in the file",
        _patched("cogvideo123_noise_by_order"), component="noise",
    ),
    Report(
        "OpenWorldLib 135", "the exporter multiplies bytes by 255",
        _patched("owl135_levels_times_255_again"), component="frames",
    ),
    Report(
        "FasterCache 13", "a cached step takes the unconditional half",
        _patched("fastercache13_wrong_half"), component="transformer",
    ),
    Report(
        "FasterCache 13, in the option", "the same, only while the cache is on",
        (*_patched("fastercache13_inside_the_option"), "candidates.diffusers.cache=pab"),
        component="transformer",
    ),
    Report(
        "LTX-2 172, stable-diffusion.cpp 1898, LightX2V 708", "scaled fp8: the scale is dropped",
        (*_with("checkpoint={scale_dropped}"),), component="transformer",
        says=(r"scale that belongs to it dropped",),
    ),
    Report(
        "LTX-2 172, in memory", "the same without a file that could be audited",
        _patched("ltx172_scale_dropped"), component="transformer", says=(r"ff\.net\.0\.proj",),
    ),
    Report(
        "DiffusionAsShader 25", "image latents are scaled twice",
        _patched("das25_image_latents_scaled_again", "micro_5b_i2v_quick"),
        component="image_encoder", says=(r"^(?!.*the transformer's output)",),
    ),
    Report(
        "CogVideoXWrapper 368", "2B at portrait size: the other orientation's table",
        _patched("kijai368_table_height_width", "micro_2b_quick", f"{_RUN}height=96"),
        component="transformer", says=("patch_embed|position",), guess=True,
    ),
    Report(
        "unsloth 6703", "the first-block cache is not reset",
        _patched("unsloth6703_cache_not_reset", "micro_2b_quick",
                 "candidates.diffusers.cache=first_block"),
        (*STRUCK, "inconclusive"), None, (r"skipped|block",),
    ),
    Report(
        "diffusers 10685", "the LoRA branch's input is cast to fp8",
        _patched("diffusers10685_lora_input_cast", "micro_2b_quick",
                 "candidates.diffusers.lora={lora}", "reference.lora={lora}"),
        component="transformer", says=("lora_A",),
    ),
    Report(
        "sdnext 3639", "another length on learned positions",
        ("case=[micro_5b_i2v_quick]", "cases.micro_5b_i2v_quick.frames=9"), ("unsupported", "error"),
        says=("learned position",), guess=True,
    ),
    Report(
        "CogVideo 547", "16 frames, which SAT has no latents for",
        ("case=[micro_2b_quick]", "candidate=[sat]", f"{_RUN}frames=16"), (), None,
        ("sat cannot make a video of 16 frames", "9 or 17"),
    ),
    Report(
        "Go-with-the-Flow 37 (healthy)", "kernels with atomics against plain ones",
        _patched("gwtf37_kernels_with_atomics"), PASSES, guess=True,
    ),
    Report(
        "Go-with-the-Flow 37 (healthy), decoder", "the same in the decoder's convolutions",
        _patched("gwtf37_convolutions_with_atomics"), PASSES, guess=True,
    ),
    Report(
        "Go-with-the-Flow 37 (healthy), both", "kernels with atomics on both sides",
        _patched("gwtf37_kernels_with_atomics", "micro_2b_quick",
                 "reference.patch=gwtf37_kernels_with_atomics"), PASSES, guess=True,
    ),
    Report(
        "CogVideo 118 (healthy)", "the table is divided instead of interpolated",
        _patched("cogvideo118_table_divided"), PASSES,
    ),
    Report(
        "diffusers 9389, CogVideoXWrapper 125, 355", "context windows overwritten, not averaged",
        _patched("context_windows_overwritten", "micro_2b_quick", f"{_RUN}frames=17",
                 "reference.patch=context_windows"), component="transformer", guess=True,
    ),
    Report(
        "SwarmUI 1373", "video-to-video: the source clip is lost",
        _patched("swarmui1373_source_lost", "micro_5b_v2v_quick"), component="image_encoder",
        says=("source clip",),
    ),
    Report(
        "diffusers 9342", "tiles of the wrong size: 70x68 frames against 64x64",
        _with("vae_tiling=true"), ("broken",), None, ("70|68",),
    ),
    Report(
        "diffusers 9342, slicing (healthy)", "slicing changes nothing",
        _with("vae_slicing=true"), PASSES,
    ),
    Report(
        "WanVideoWrapper 401's sister", "tiled decoding leaves half of every frame black",
        (*_patched("tiled_half_black"), "candidates.diffusers.vae_tiling=true"),
        STRUCK, None, ("70|68|decoder",),
    ),
    Report(
        "CogVideo 647", "one frame fewer than was asked for",
        _patched("cogvideo647_last_frame_missing"), component="frames", says=(r"\b8\b",),
    ),
    Report(
        "diffusers 10932 (healthy)", "torch.compile", _with("compile=true"), PASSES,
    ),
)  # fmt: skip
"""Not expressible: CogVideo 450, diffusers 7773, xDiT pull request 546 (batches); CogVideoXWrapper
225 (ControlNet); CogVideo 412, finetrainers 124 (training); WanVideoWrapper 490 (its loop is out of a
patch's reach). Two more are audits of files, not of runs: damaged downloads (CogVideo 446) and the
scales of stored eight-bit weights, in `tests/trust/test_d_values.py`."""
