"""Our SAT code beside CogVideo's, part by part, on the same weights and inputs.

Every function yields (what, largest absolute difference, relative L2 difference).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from upstream import Upstream

from backends.checkpoints.sat.config import (
    GuidanceConfig,
    ScheduleConfig,
    TransformerConfig,
    VaeConfig,
)
from backends.sat.denoiser import Denoiser
from backends.sat.discretization import own_table, signal_levels
from backends.sat.engine import SatEngine
from backends.sat.samplers import make_solver
from backends.sat.source import open_source
from backends.sat.transformer import DiffusionTransformer
from backends.sat.vae import VideoAutoencoder

Figure = tuple[str, float, float]

DIFFUSION = "sgm.modules.diffusionmodules"
TRANSFORMER = {
    "num_layers": 3, "hidden_size": 64, "num_attention_heads": 2, "time_embed_dim": 48,
    "in_channels": 4, "out_channels": 4, "num_frames": 17, "time_compressed_rate": 4,
    "latent_height": 6, "latent_width": 8, "elementwise_affine": True,
}  # fmt: skip
VAE = VaeConfig(
    ch=32, ch_mult=(1, 2, 2), num_res_blocks=1, z_channels=4, image_channels=3,
    temporal_compress_times=4,
)  # fmt: skip


def figure(what: str, own: Tensor, reference: Tensor) -> Figure:
    """Compare two tensors; shapes and dtypes must agree."""
    assert own.shape == reference.shape, f"{what}: {own.shape} is not {reference.shape}"
    assert own.dtype == reference.dtype, f"{what}: {own.dtype} is not {reference.dtype}"
    gap, size = (own.double() - reference.double()), reference.double().norm().item()
    return what, gap.abs().max().item(), gap.norm().item() / size if size else gap.norm().item()


def seeded(*shape: int, seed: int) -> Tensor:
    """Standard normal test data."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scramble(module: nn.Module, spread: float) -> None:
    """Random weights everywhere, norms included, so that no term is hidden by an initial zero."""
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        parameter.data.copy_(
            torch.randn(parameter.shape, generator=generator) * spread + (parameter.ndim == 1) * 0.5
        )


def own_transformer_config(positions: Any) -> TransformerConfig:
    return TransformerConfig(
        **TRANSFORMER, patch_size=2, text_length=6, text_hidden_size=24, positions=positions,
        interpolation=(1.0, 1.875, 1.875) if positions == "sin_cos" else (1.0, 1.0, 1.0),
        qk_norm=True, layernorm_epsilon=1e-5, vocab_size=1, max_sequence_length=64,
    )  # fmt: skip


def upstream_transformer(upstream: Upstream, positions: str, dtype: str) -> nn.Module:
    rotary = positions == "rotary"
    scales = {"height_interpolation": 1.875, "width_interpolation": 1.875}
    place: dict[str, Any] = {"text_length": 6}
    top: dict[str, Any] = dict(TRANSFORMER)
    if rotary:
        place["hidden_size_head"] = 32
    elif upstream.is_v1:
        place |= scales
    else:
        top |= scales
    kind = "Rotary3DPositionEmbeddingMixin" if rotary else "Basic3DPositionEmbeddingMixin"
    args = {
        "checkpoint_activations": False, "vocab_size": 1, "max_sequence_length": 64,
        "layernorm_order": "pre", "skip_init": False, "model_parallel_size": 1, "is_decoder": False,
    }  # fmt: skip
    modules = {
        "pos_embed_config": {"target": f"dit_video_concat.{kind}", "params": place},
        "patch_embed_config": {
            "target": "dit_video_concat.ImagePatchEmbeddingMixin",
            "params": {"text_hidden_size": 24},
        },
        "adaln_layer_config": {"target": "dit_video_concat.AdaLNMixin", "params": {"qk_ln": True}},
        "final_layer_config": {"target": "dit_video_concat.FinalLayerMixin"},
    }
    config = OmegaConf.create({"transformer_args": args, "modules": modules})
    patch_size = 2 if upstream.is_v1 else [1, 2, 2]
    with upstream.on_cpu():
        model = upstream.dit.DiffusionTransformer(
            **top, patch_size=patch_size, dtype=dtype,
            transformer_args=config.transformer_args, modules=config.modules,
        )  # fmt: skip
        scramble(model, 0.08)
    half = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    return model.eval().to(half)


def own_like(upstream: Upstream, reference: nn.Module, positions: Any, dtype: torch.dtype) -> Any:
    """Our transformer with upstream's weights; on the main branch the patch weights are
    reshaped."""
    own = DiffusionTransformer(own_transformer_config(positions), dtype).eval()
    state = dict(reference.state_dict())
    if upstream.is_v1:
        assert list(state) == list(own.state_dict())
        own.load_state_dict(state)
        return own
    name = "mixins.patch_embed.proj.weight"
    state[name] = state[name].reshape(own.state_dict()[name].shape)
    result = own.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    assert all(".freqs_" in key for key in result.missing_keys)
    return own


def transformer(upstream: Upstream) -> Iterator[Figure]:
    """One call on 5 latent frames and one on 3, both position kinds, two dtypes."""
    for positions in ("sin_cos", "rotary"):
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            reference = upstream_transformer(upstream, positions, name)
            own = own_like(upstream, reference, positions, dtype)
            for frames in (5, 3):
                latents = seeded(2, frames, 4, 6, 8, seed=frames)
                text = seeded(2, 6, 24, seed=1).to(dtype)
                times = torch.tensor([999.0, 19.0])
                with upstream.on_cpu():
                    expected = reference(latents, timesteps=times, context=text)
                    came = own(latents, times, text)
                yield figure(f"transformer {positions} {name} {frames} frames", came, expected)


def schedules(upstream: Upstream) -> Iterator[Figure]:
    """Timesteps and levels for both models' shifts and several step counts."""
    for shift in (1.0, 3.0):
        config = ScheduleConfig(0.00085, 0.0120, 1000, shift, keep_start=False, post_shift=False)
        make = upstream.discretizer.ZeroSNRDDPMDiscretization(shift_scale=shift)
        for steps in (2, 4, 20, 30, 50, 999):
            levels, picked = make(steps, do_append_zero=False, return_idx=True)
            table = own_table(config, steps)
            assert table.timesteps == [int(t) for t in picked][::-1]
            yield figure(f"levels shift {shift} steps {steps}", table.levels, levels)
        full = make(1000, do_append_zero=False, flip=True)
        own = signal_levels(config, 1000).flip(0)
        yield figure(f"levels shift {shift} of the denoiser", own, full)


def sampler_config(kind: str, dynamic: bool, steps: int, shift: float) -> dict[str, Any]:
    schedule = {
        "target": f"{DIFFUSION}.discretizer.ZeroSNRDDPMDiscretization",
        "params": {"shift_scale": shift},
    }
    guider = {"target": f"{DIFFUSION}.guiders.VanillaCFG", "params": {"scale": 6}}
    if dynamic:
        guider = {
            "target": f"{DIFFUSION}.guiders.DynamicCFG",
            "params": {"scale": 6, "exp": 5, "num_steps": steps},
        }
    return {"num_steps": steps, "discretization_config": schedule, "guider_config": guider}


class Recorded:
    """Noise by draw number, for both sides, so that the order of draws is compared too."""

    def __init__(self) -> None:
        self._numbers = count(100)

    def __call__(self, like: Tensor) -> Tensor:
        return seeded(*like.shape, seed=next(self._numbers)).to(like.dtype)


def sampling(upstream: Upstream) -> Iterator[Figure]:
    """Denoiser, guider and solver over all steps, the real transformer in the loop."""
    reference = upstream_transformer(upstream, "rotary", "fp32")
    own = own_like(upstream, reference, "rotary", torch.float32)
    text = seeded(2, 6, 24, seed=1)
    start = seeded(1, 3, 4, 6, 8, seed=2)
    for kind, name in (("ddim", "VideoDDIMSampler"), ("dpm", "VPSDEDPMPP2MSampler")):
        for dynamic in (False, True):
            for steps in (3, 7):
                shift = 3.0 if dynamic else 1.0
                settings = sampler_config(kind, dynamic, steps, shift)
                expected, draws = _upstream_sample(
                    upstream, name, settings, shift, reference, start, text
                )
                schedule = ScheduleConfig(0.00085, 0.0120, 1000, shift, False, False)
                came, own_draws = _own_sample(
                    schedule,
                    kind,
                    GuidanceConfig(dynamic, 6.0, 5.0, steps),
                    steps,
                    own,
                    start,
                    text,
                )
                assert own_draws == draws, f"{own_draws} draws, expected {draws}"
                yield figure(
                    f"{kind} {'dynamic' if dynamic else 'plain'} {steps} steps", came, expected
                )


def _upstream_sample(
    upstream: Upstream,
    name: str,
    settings: Any,
    shift: float,
    network: Any,
    x: Tensor,
    text: Tensor,
) -> tuple[Tensor, int]:
    schedule = settings["discretization_config"]
    denoiser = upstream.denoiser.DiscreteDenoiser(
        weighting_config={"target": f"{DIFFUSION}.denoiser_weighting.EpsWeighting"},
        scaling_config={"target": f"{DIFFUSION}.denoiser_scaling.VideoScaling"},
        num_idx=1000, quantize_c_noise=False, discretization_config=schedule,
    )  # fmt: skip
    model = upstream.wrappers.OpenAIWrapper(network)
    sampler = getattr(upstream.sampling, name)(device="cpu", verbose=False, **settings)
    noise = Recorded()
    calls = [0]

    def randn_like(like: Tensor, **_: Any) -> Tensor:
        calls[0] += 1
        return noise(like)

    with upstream.on_cpu(), patch.object(torch, "randn_like", randn_like):
        result = sampler(
            lambda x, sigma, c, **more: denoiser(model, x, sigma, c, **more),
            x.clone(),
            {"crossattn": text[1:].clone()},
            uc={"crossattn": text[:1].clone()},
        )
    return result, calls[0]


def _own_sample(
    schedule: ScheduleConfig, kind: Any, guidance: GuidanceConfig, steps: int, network: Any,
    x: Tensor, text: Tensor,
) -> tuple[Tensor, int]:  # fmt: skip
    table = own_table(schedule, steps)
    denoise = Denoiser(network, schedule)
    solver = make_solver(kind, table)
    noise = Recorded()
    calls = [0]

    def draw(like: Tensor) -> Tensor:
        calls[0] += 1
        return noise(like)

    with torch.no_grad():
        for index in range(steps):
            x = solver.step(x, denoise(x, text, table, index, guidance).clean, index, draw)
    return x, calls[0]


def autoencoder(upstream: Upstream) -> Iterator[Figure]:
    """Decoding in pieces for odd numbers of latent frames, encoding whole, two dtypes."""
    shared: dict[str, Any] = {
        "ch": VAE.ch, "out_ch": 3, "ch_mult": VAE.ch_mult, "num_res_blocks": VAE.num_res_blocks,
        "attn_resolutions": [], "in_channels": 3, "resolution": 64, "z_channels": VAE.z_channels,
        "double_z": True,
    }  # fmt: skip
    encoder = upstream.vae.ContextParallelEncoder3D(**shared, gather_norm=True).eval()
    decoder = upstream.vae.ContextParallelDecoder3D(**shared, gather_norm=False).eval()
    scramble(encoder, 0.05)
    scramble(decoder, 0.05)
    own = VideoAutoencoder(VAE).eval()
    state = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    state |= {f"decoder.{k}": v for k, v in decoder.state_dict().items()}
    assert list(state) == list(own.state_dict())
    own.load_state_dict(state)
    for dtype in (torch.float32, torch.bfloat16):
        for module in (encoder, decoder, own):
            module.to(dtype)
        short = str(dtype).removeprefix("torch.")
        for frames in (1, 3, 5, 9):
            latents = seeded(1, VAE.z_channels, frames, 4, 6, seed=frames).to(dtype)
            with upstream.on_cpu():
                yield figure(
                    f"decode {short} {frames} latent frames",
                    own.decode(latents),
                    _upstream_decode(upstream, decoder, latents),
                )
        for frames in (1, 9):
            video = seeded(1, 3, frames, 16, 24, seed=frames).clamp(-1, 1).to(dtype)
            with upstream.on_cpu():
                moments = encoder(video)
                with patch.object(torch, "randn_like", Recorded()):
                    expected, _ = upstream.regularizers.DiagonalGaussianRegularizer()(moments)
                yield figure(
                    f"encode {short} {frames} frames", own.encode(video, Recorded()), expected
                )


def _upstream_decode(upstream: Upstream, decoder: Any, latents: Tensor) -> Tensor:
    """The loop of v1.0's `sample_video.py`; main's decoder takes its rule for the first piece."""
    outputs: list[Tensor] = []
    rounds = max((latents.shape[2] - 1) // 2, 1)
    for i in range(rounds):
        start, end = (0, 3) if i == 0 else (i * 2 + 1, i * 2 + 3)
        options = {"clear_fake_cp_cache": i == rounds - 1}
        if not upstream.is_v1:
            options["use_cp"] = i == 0
        outputs.append(decoder(latents[:, :, start:end].contiguous(), **options))
    return torch.cat(outputs, dim=2)


def micro(upstream: Upstream) -> Iterator[Figure]:
    """The 1.0 text-to-video micro models, written as SAT folders, opened by upstream's own classes.

    Nothing for the main branch, which cannot read a 1.0 model's YAML.
    """
    from backends.checkpoints import convert
    from backends.checkpoints.sat.layout import find_parts
    from backends.micro import model_path

    for name in ("micro-2b", "micro-5b") if upstream.is_v1 else ():
        with TemporaryDirectory() as work:
            folder = Path(work) / name
            convert(model_path(name), folder, "sat")
            parts, config = find_parts(folder)
            source = open_source(folder, None, None)
            engine = SatEngine.open(source, torch.float32, torch.device("cpu"))
            document = OmegaConf.load(parts.config).model
            network, vae = _upstream_micro(upstream, document, folder)
        yield from _compare_micro(upstream, name, config.denoiser_schedule, engine, network, vae)


def _upstream_micro(upstream: Upstream, document: Any, folder: Path) -> tuple[Any, Any]:
    """Upstream's transformer and VAE decoder as its YAML and checkpoint files say."""
    build = upstream.util.instantiate_from_config
    params = document.network_config.params
    params.transformer_args.checkpoint_activations = False
    decoder = build(document.first_stage_config.params.decoder_config).eval()
    with upstream.on_cpu():
        network = build(document.network_config).eval()
    iteration = (folder / "transformer" / "latest").read_text()
    states = folder / "transformer" / iteration / "mp_rank_00_model_states.pt"
    state = torch.load(states, weights_only=True)["module"]
    prefix = "model.diffusion_model."
    network.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    stored = torch.load(folder / "vae" / "3d-vae.pt", weights_only=True)["state_dict"]
    own = {k.removeprefix("decoder."): v for k, v in stored.items() if k.startswith("decoder.")}
    decoder.load_state_dict(own)
    return network, decoder


def _compare_micro(
    upstream: Upstream, name: str, schedule: Any, engine: SatEngine, network: Any, decoder: Any
) -> Iterator[Figure]:
    shape = engine.latent_shape(17, 64, 64)
    words = engine.encode_text("a red circle moving left on a white background")[0]
    text = torch.cat((torch.zeros_like(words), words))
    start = seeded(*shape, seed=5)
    steps = 4
    for kind, sampler in (("ddim", "VideoDDIMSampler"), ("dpm", "VPSDEDPMPP2MSampler")):
        settings = sampler_config(kind, True, steps, schedule.shift_scale)
        expected, _ = _upstream_sample(
            upstream, sampler, settings, schedule.shift_scale, network, start, text
        )
        guidance = GuidanceConfig(True, 6.0, 5.0, steps)
        came, _ = _own_sample(schedule, kind, guidance, steps, engine.diffusion_model, start, text)
        yield figure(f"{name} {kind} dynamic {steps} steps", came, expected)
    latents = (1.0 / engine.config.scale_factor * expected).transpose(1, 2).contiguous()
    with upstream.on_cpu():
        reference = _upstream_decode(upstream, decoder, latents)
    frames = torch.clamp((reference + 1.0) / 2.0, 0.0, 1.0).permute(0, 2, 3, 4, 1)
    yield figure(f"{name} decode 17 frames", engine.decode(expected), frames.contiguous())
