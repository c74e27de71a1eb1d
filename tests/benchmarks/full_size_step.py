"""One guided step of a full-size 2B or 5B on both stacks, from the same random tensors.

    python tests/benchmarks/full_size_step.py 2b     # prints a row of FULL_SIZE.md; minutes on one core

The transformer has its real configuration (30 or 42 layers) at float32. Weights are random, drawn per
canonical tensor name, and exist one block at a time: a hook fills a block before it runs and empties
it afterwards, so that the 5B needs no more memory than the 2B. Each stack runs in a process of its own,
whose peak memory is measured. The picture is small: the cost is in the weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from backends.checkpoints.mapping import transformer_table
from backends.checkpoints.sat.config import GuidanceConfig, ScheduleConfig, TransformerConfig
from backends.checkpoints.tensors import LazyTensors

STEPS, STEP = 50, 25
GUIDANCE = 6.0


@dataclass(frozen=True)
class Model:
    """A real configuration; `frames` x `rows` x `columns` latents and `text` tokens are rendered."""

    heads: int
    layers: int
    rotary: bool
    snr_shift_scale: float
    frames: int
    rows: int
    columns: int
    text: int


MODELS = {
    "2b": Model(30, 30, False, 3.0, frames=3, rows=16, columns=24, text=226),
    "5b": Model(48, 42, True, 1.0, frames=2, rows=16, columns=24, text=226),
}


def sat_config(model: Model) -> TransformerConfig:
    """`sat/configs/cogvideox_{2b,5b}.yaml`, a few frames long."""
    scale = 1.0 if model.rotary else 1.875
    return TransformerConfig(
        num_layers=model.layers, hidden_size=64 * model.heads, num_attention_heads=model.heads,
        time_embed_dim=512, in_channels=16, out_channels=16, patch_size=2,
        num_frames=4 * model.frames - 3, time_compressed_rate=4,
        latent_height=model.rows, latent_width=model.columns,
        text_length=model.text, text_hidden_size=4096,
        positions="rotary" if model.rotary else "sin_cos", interpolation=(1.0, scale, scale),
        qk_norm=True, elementwise_affine=True, layernorm_epsilon=1e-5, vocab_size=1,
        max_sequence_length=64,
    )  # fmt: skip


def empty_diffusers(model: Model) -> Any:
    """Diffusers' transformer without weights; its position table is computed."""
    from accelerate import init_empty_weights
    from diffusers import CogVideoXTransformer3DModel

    with init_empty_weights(include_buffers=False):
        return CogVideoXTransformer3DModel(
            num_attention_heads=model.heads, num_layers=model.layers, sample_frames=4 * model.frames - 3,
            sample_height=model.rows, sample_width=model.columns, max_text_seq_length=model.text,
            use_rotary_positional_embeddings=model.rotary,
        ).eval()  # fmt: skip


def canonical(model: Model) -> LazyTensors:
    """Random tensors under Diffusers' names, drawn anew, and equal, at every look-up."""
    shapes = {name: p.shape for name, p in empty_diffusers(model).named_parameters()}

    def loader(name: str) -> Callable[[], Tensor]:
        def draw() -> Tensor:
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
            generator = torch.Generator().manual_seed(seed)
            noise = torch.empty(shapes[name]).uniform_(-1, 1, generator=generator)
            if len(shapes[name]) > 1:
                return noise.mul_((3 / shapes[name][1:].numel()) ** 0.5)
            return noise.mul_(0.1).add_(float("norm" in name and name.endswith("weight")))

        return draw

    return LazyTensors({name: loader(name) for name in shapes})


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter, whatever device it is on."""
    parent, _, leaf = name.rpartition(".")
    module.get_submodule(parent).register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))


def fill_by_block(
    model: nn.Module, blocks: Mapping[int, nn.Module], weights: Mapping[str, Tensor], home: Any
) -> None:
    """Fill `model` from `weights`; those whose `home` is a block, only while that block runs."""
    for name in weights:
        if home(name) is None:
            put(model, name, weights[name])
    for index, block in blocks.items():
        names = [name for name in weights if home(name) == index]
        for name in names:
            put(model, name, torch.empty(0))

        def fill(_module: nn.Module, _args: Any, names: list[str] = names) -> None:
            for name in names:
                put(model, name, weights[name])

        def empty(_module: nn.Module, _args: Any, _out: Any, names: list[str] = names) -> None:
            for name in names:
                put(model, name, torch.empty(0))

        block.register_forward_pre_hook(fill)
        block.register_forward_hook(empty)


def block_of(name: str, before: tuple[str, ...]) -> int | None:
    """The block that a parameter belongs to, by the part of its name after one of `before`."""
    for prefix in before:
        if name.startswith(prefix):
            return int(name.removeprefix(prefix).partition(".")[0])
    return None


def with_diffusers(model: Model, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from diffusers import CogVideoXDDIMScheduler
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    network, weights = empty_diffusers(model), canonical(model)
    blocks = dict(enumerate(network.transformer_blocks))
    fill_by_block(network, blocks, weights, lambda n: block_of(n, ("transformer_blocks.",)))
    network.norm_out.norm.eps = 1e-6  # SAT's; a known difference of the two, not rounding
    scheduler: Any = CogVideoXDDIMScheduler(**schedule_settings(model))
    scheduler.set_timesteps(STEPS)
    time_now = scheduler.timesteps[STEP]
    grid = (model.rows // 2, model.columns // 2)
    rotary = (
        get_3d_rotary_pos_embed(64, ((0, 0), grid), grid, model.frames) if model.rotary else None
    )
    latents = given["latents"]
    branches = network(
        torch.cat([latents] * 2), given["text"], time_now.expand(2), image_rotary_emb=rotary
    ).sample
    unconditional, conditional = branches.chunk(2)
    velocity = unconditional + GUIDANCE * (conditional - unconditional)
    result = scheduler.step(velocity, time_now, latents, return_dict=False)[0]
    return {"branches": branches, "result": result}


def with_sat(model: Model, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from diffusers import CogVideoXDDIMScheduler

    from backends.checkpoints.sat.checkpoint import without_initialisation
    from backends.diffusers.solver import own_table
    from backends.sat.denoiser import Denoiser
    from backends.sat.discretization import shared_table
    from backends.sat.samplers import DdimSolver
    from backends.sat.stack import SoloWorld, unchanged_process
    from backends.sat.transformer import DiffusionTransformer

    SoloWorld()
    config = sat_config(model)
    with unchanged_process(), without_initialisation():
        network = DiffusionTransformer(config, torch.float32).eval()
    weights = transformer_table(config).to_sat(canonical(model))
    inside = (
        "transformer.layers.", "mixins.adaln_layer.adaLN_modulations.",
        "mixins.adaln_layer.query_layernorm_list.", "mixins.adaln_layer.key_layernorm_list.",
    )  # fmt: skip
    blocks = dict(enumerate(network.get_submodule("mixins.adaln_layer.blocks").children()))
    fill_by_block(network, blocks, weights, lambda n: block_of(n, inside))
    schedule = ScheduleConfig(0.00085, 0.012, 1000, model.snr_shift_scale, False, False)
    shared = own_table(CogVideoXDDIMScheduler(**schedule_settings(model)), STEPS)
    table = shared_table(schedule, schedule, STEPS, shared)
    guidance = GuidanceConfig(False, GUIDANCE, 5.0, STEPS)
    denoised = Denoiser(network, schedule)(given["latents"], given["text"], table, STEP, guidance)
    result = DdimSolver(table).step(given["latents"], denoised.clean, STEP, torch.zeros_like)
    return {"branches": denoised.branches, "result": result}


def schedule_settings(model: Model) -> dict[str, Any]:
    return {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "clip_sample": False, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing", "snr_shift_scale": model.snr_shift_scale,
    }  # fmt: skip


def inputs(model: Model) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(1, model.text, 4096, generator=draw) * 0.2
    return {
        "latents": torch.randn(1, model.frames, 16, model.rows, model.columns, generator=draw),
        "text": torch.cat((torch.zeros_like(text), text)),
    }


@torch.no_grad()
def run_one(stack: str, name: str, out: Path) -> None:
    model, started = MODELS[name], time.perf_counter()
    run = {"diffusers": with_diffusers, "sat": with_sat}[stack]
    tensors = run(model, inputs(model))
    save_file({key: value.contiguous() for key, value in tensors.items()}, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures = {"wall_s": time.perf_counter() - started, "peak_gib": peak}
    out.with_suffix(".json").write_text(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("--stack", choices=("diffusers", "sat"), help="run one stack only")
    parser.add_argument("--out", type=Path, help="where to put its tensors")
    given = parser.parse_args()
    if given.stack:
        run_one(given.stack, given.model, given.out)
        return
    model, results, costs = MODELS[given.model], {}, []
    with TemporaryDirectory() as work:
        for stack in ("diffusers", "sat"):
            out = Path(work) / f"{stack}.safetensors"
            command = [sys.executable, __file__, given.model, "--stack", stack, "--out", str(out)]
            subprocess.run(command, check=True)
            results[stack] = load_file(out)
            figures = json.loads(out.with_suffix(".json").read_text())
            costs.append(f"{figures['wall_s']:.0f} s, {figures['peak_gib']:.1f} GiB")
    gaps = []
    for key in ("branches", "result"):
        came, expected = results["sat"][key].double(), results["diffusers"][key].double()
        gaps.append(f"{float((came - expected).norm() / expected.norm()):.1e}")
    count = sum(p.numel() for p in empty_diffusers(model).parameters())
    tokens = model.text + model.frames * model.rows * model.columns // 4
    versions = f"torch {version('torch')}, diffusers {version('diffusers')}"
    versions += f", SwissArmyTransformer {version('SwissArmyTransformer')}"
    print(
        f"| {given.model} | {count / 1e9:.2f} | {model.layers} | float32 | {tokens} |"
        f" {' | '.join(gaps)} | {' | '.join(costs)} | {versions} |"
    )


if __name__ == "__main__":
    main()
