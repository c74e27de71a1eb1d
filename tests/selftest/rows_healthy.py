"""Healthy configurations: nothing here is a defect, so `bug` or `broken` is a false alarm."""

from __future__ import annotations

from dataclasses import replace

from harness.records import VerdictName
from tests.selftest.row import Healthy
from tests.selftest.setting import (
    FIVE,
    FIVE_BF16,
    FIVE_LONG,
    IMAGE,
    IMAGE_BF16,
    LATER,
    LATER_BF16,
    LATER_IMAGE,
    LATER_IMAGE_BF16,
    SAT_FIVE,
    SAT_FIVE_BF16,
    SAT_TWO,
    TWO,
    TWO_BF16,
    TWO_LONG,
    Model,
    Setting,
)

_EXACT: tuple[VerdictName, ...] = ("bit_exact",)
_ROUNDING: tuple[VerdictName, ...] = ("bit_exact", "rounding", "chaotic")
DECLARED: tuple[VerdictName, ...] = (*_ROUNDING, "policy")

_FOUR = (TWO, FIVE, TWO_BF16, FIVE_BF16)
_MORE = (IMAGE, LATER_BF16, LATER_IMAGE)
_MORE_OTHERS = (IMAGE_BF16, LATER, LATER_IMAGE_BF16)


def _label(setting: Setting) -> str:
    parts = (setting.backend, setting.model, "bf16" if setting.dtype == "bfloat16" else "fp32")
    return "-".join(parts)


def _patched(
    name: str,
    summary: str,
    settings: tuple[Setting, ...],
    acceptable: tuple[VerdictName, ...] = _ROUNDING,
    field: str | None = None,
) -> tuple[Healthy, ...]:
    """One row a setting, of a patch of `tests.selftest.faults.harmless`."""
    return tuple(
        Healthy(
            f"{name}@{_label(setting)}", "patch", summary, setting, acceptable,
            plugin="tests.selftest.faults.harmless", patch=f"harmless_{name}", field=field,
        )
        for setting in settings
    )  # fmt: skip


def chosen(
    name: str,
    kind: str,
    summary: str,
    settings: tuple[Setting, ...],
    options: tuple[str, ...] = (),
    acceptable: tuple[VerdictName, ...] = _ROUNDING,
    further: tuple[str, ...] = (),
    field: str | None = None,
) -> tuple[Healthy, ...]:
    """One row a setting, of options of the candidate and further overrides of the run."""
    return tuple(
        Healthy(
            f"{name}@{_label(setting)}", kind, summary, setting, acceptable,
            options=options, further=further, field=field,
        )
        for setting in settings
    )  # fmt: skip


def _on_both(
    name: str, summary: str, settings: tuple[Setting, ...], *further: str
) -> tuple[Healthy, ...]:
    """One row a setting, of a harmless patch on the reference; `further` changes the two."""
    return tuple(
        Healthy(
            f"{name}@{_label(setting)}", "patch", summary, setting, _ROUNDING,
            plugin="tests.selftest.faults.harmless", further=further,
        )
        for setting in settings
    )  # fmt: skip


def with_case(setting: Setting, *case: str) -> Setting:
    return replace(setting, case=(*setting.case, *case))


_PATCHES = (
    *_patched("nothing", "the patch seam alone", (TWO, FIVE_BF16), _EXACT),
    *_patched("attention_rewritten", "attention from other code", (TWO, FIVE_BF16)),
    *_patched("attention_explicit", "attention as products and softmax", (*_FOUR, *_MORE), field="B01"),
    *_patched("attention_chunked", "queries in chunks", _FOUR, field="B01"),
    *_patched("attention_keys_permuted", "keys in the reverse order", _FOUR, field="B01"),
    *_patched("attention_float32", "attention in float32", (TWO_BF16, FIVE_BF16), field="B01"),
    *_patched("projections_fused", "query, key, value fused", _FOUR),
    *_patched("branches_split", "guidance branches one by one",
              (*_FOUR, *_MORE, SAT_TWO, SAT_FIVE_BF16)),
    *_patched("weights_not_contiguous", "matrices stored column by column",
              (TWO, FIVE_BF16, SAT_FIVE), field="B06"),
    *_patched("channels_last", "channels-last VAE", (TWO, FIVE, FIVE_BF16), field="B06"),
    *_patched("saved_and_loaded", "weights written and read again", (TWO, FIVE_BF16, SAT_FIVE),
              field="B23"),
    *_patched("weights_moved", "weights at odd addresses", (TWO, FIVE_BF16)),
    *_patched("inner_sum_split", "inner sums in two halves", _FOUR, field="B08"),
    *_patched("jitter", "half an ulp on every block",
              (*_FOUR, *_MORE_OTHERS, SAT_TWO, SAT_FIVE_BF16)),
    *_patched("decoder_jitter", "half an ulp in the decoder", (TWO, FIVE_BF16)),
    *_patched("text_jitter", "half an ulp in T5", (FIVE, TWO_BF16)),
    *_patched("noise_one_ulp", "initial noise one ulp larger", (TWO, FIVE), DECLARED, "B11"),
    *_patched("eta", "eta passed and ignored", (TWO, FIVE_BF16), field="B25"),
    # Weights that differ are no pass, as long as nothing has measured that they are the same in order.
    *_patched("norm_out_swapped", "halves stored swapped, with matching code", (TWO, FIVE_BF16),
              (*DECLARED, "inconclusive"), "B27"),
    *_patched("last_norm_epsilon", "SAT's eps in the last norm", (TWO, FIVE, TWO_BF16), DECLARED,
              "B12"),
    *_patched("padding_moved", "decoder pads before its convolutions", (TWO, FIVE_BF16),
              field="B29"),
    *_patched("block_upcast", "one block sums in float64", _FOUR),
    *_patched("text_batched", "prompts encoded in a batch", (TWO, FIVE_BF16)),
    *_patched("tokenizer_slow", "the other tokenizer implementation", (TWO, FIVE), field="B31"),
    *_patched("kernels_vary", "kernels that never round the same twice", (TWO, FIVE_BF16)),
    *_on_both("kernels_vary_on_both", "such kernels on both sides", (TWO, FIVE, FIVE_BF16),
              "reference.patch=harmless_kernels_vary",
              "candidates.diffusers.patch=harmless_kernels_vary",
              "candidates.diffusers.attention=math"),
    *_patched("sinusoid_float64", "the timestep's sinusoid in float64", (TWO, FIVE, TWO_BF16)),
    *_on_both("more_exact", "a reference whose float32 sinusoid is rough", (TWO, FIVE),
              "reference.patch=harmless_sinusoid_rough"),
    *_patched("rotary_float64", "rotation in float64", (FIVE, FIVE_BF16), field="B16"),
)  # fmt: skip

_KERNELS = tuple(
    row
    for kernel in ("math", "flash", "efficient")
    for row in chosen(
        f"attention_{kernel}", "kernel", f"attention kernel {kernel}",
        (*_FOUR, *_MORE) if kernel == "math" else (TWO, FIVE_BF16), (f"attention={kernel}",),
        # The memory-efficient kernel needs an accelerator, and says so.
        (*_ROUNDING, "unsupported") if kernel == "efficient" else _ROUNDING,
        field="B01",
    )
)  # fmt: skip

_THREADS = (
    *chosen("two_threads", "threads", "two threads against one", (*_FOUR, *_MORE_OTHERS),
             ("threads=2",),
             further=("reference.threads=1",), field="B08"),
    *chosen("one_thread", "threads", "one thread against two", (SAT_TWO, FIVE), ("threads=1",),
             further=("reference.threads=2",), field="B08"),
)  # fmt: skip

_PLACED: tuple[tuple[str, tuple[Model, ...]], ...] = (
    ("model_offload", ("micro-2b", "micro-5b", "micro-1.5-5b")),
    ("sequential_offload", ("micro-2b", "micro-5b", "micro-5b-i2v")),
    ("group_offload_block", ("micro-2b", "micro-5b", "micro-1.5-5b-i2v")),
    ("group_offload_leaf", ("micro-5b", "micro-5b-i2v")),
    ("group_offload_block_disk", ("micro-2b",)),
    ("group_offload_leaf_disk", ("micro-5b",)),
)

_PLACEMENTS = tuple(
    row
    for placement, models in _PLACED
    for model in models
    for dtype in ("float32", "bfloat16")
    for row in chosen(
        placement, "placement", f"placement {placement}",
        (Setting(model, "diffusers_offload", dtype=dtype),), (f"placement={placement}",),
        field="B03",
    )
)  # fmt: skip

_DTYPES = (
    *chosen("vae_float32", "dtype", "float32 VAE in a bfloat16 run", (TWO_BF16, FIVE_BF16),
             ("vae_dtype=float32",), DECLARED, field="B17"),
    *chosen("text_float32", "dtype", "float32 T5 in a bfloat16 run", (TWO_BF16, FIVE_BF16),
             ("text_dtype=float32",), DECLARED, field="B19"),
    *chosen("vae_bf16", "dtype", "bfloat16 VAE in a float32 run", (TWO, FIVE),
             ("vae_dtype=bfloat16",), DECLARED, field="B17"),
    *chosen("text_bf16", "dtype", "bfloat16 T5 in a float32 run", (TWO, FIVE),
             ("text_dtype=bfloat16",), DECLARED, field="B19"),
    *chosen("bf16_against_fp32", "dtype", "bfloat16 against float32", (TWO_BF16, FIVE_BF16),
             acceptable=DECLARED, further=("reference.dtype=float32",), field="B18"),
    *chosen("slicing", "decoder", "VAE slicing", (*_FOUR, LATER, IMAGE), ("vae_slicing=true",),
             field="B04"),
    # No row has tiling: Diffusers' tiles of the micro VAEs overlap by parts of a latent, and 64 px
    # become 70, which is `broken`.
    *chosen("fused_qkv", "acceleration", "fused projections", (TWO, FIVE, FIVE_BF16),
             ("fuse_qkv=true",)),
    *chosen("casting_declared", "acceleration", "float8 weights asked for on one side", (TWO, FIVE),
             ("layerwise_casting=float8_e4m3fn",), ("approximation",)),
    *chosen("cache_declared", "acceleration", "a cache asked for on one side", (TWO, FIVE),
             ("cache=pab",), ("approximation", "inconclusive")),
)  # fmt: skip

_CASES = tuple(
    row
    for name, settings, further in (
        ("rerun", (*_FOUR, *_MORE), ()),
        ("seed_7", (TWO, FIVE_BF16), ("seeds=[7]",)),
        ("two_seeds", (FIVE,), ("seeds=[3,4]",)),
        ("longer", (TWO_LONG, FIVE_LONG, replace(FIVE_LONG, dtype="bfloat16")), ()),
        ("five_steps", (with_case(TWO, "steps=5"), with_case(FIVE_BF16, "steps=5")), ()),
        ("twelve_steps", (with_case(FIVE, "steps=12"),), ()),
        ("small", (with_case(TWO, "height=32", "width=32"),), ()),
        ("wide", (with_case(FIVE_BF16, "width=96"),), ()),
        ("other_prompt", (with_case(TWO_BF16, "prompt='a blue square moving right'"),), ()),
        ("negative_prompt", (with_case(FIVE, "negative_prompt='a green triangle'"),), ()),
        ("no_guidance", (with_case(FIVE, "guidance_scale=1.0", "dynamic_guidance=false"),), ()),
        ("other_solver", (with_case(TWO, "sampler=dpm"), with_case(FIVE, "sampler=ddim")), ()),
    )
    for row in chosen(name, "case", f"the same twice, {name}", settings, further=further)
)  # fmt: skip

ROWS = (*_PATCHES, *_KERNELS, *_THREADS, *_PLACEMENTS, *_DTYPES, *_CASES)
