"""Stand-in for CogVideo's engine: its attributes and its `sample` around this project's modules."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import OmegaConf
from sgm.util import instantiate_from_config
from torch import Tensor, nn
from transformers import T5EncoderModel, T5Tokenizer
from vae_modules.autoencoder import VideoAutoencoderInferenceWrapper

from backends.checkpoints.sat.yaml_reader import read_config
from backends.sat.denoiser import Denoiser
from backends.sat.discretization import denoiser_levels
from backends.sat.transformer import DiffusionTransformer


class _Embedder(nn.Module):
    def __init__(self, model_dir: str, max_length: int, **_: Any) -> None:
        super().__init__()
        self.tokenizer = T5Tokenizer.from_pretrained(model_dir)
        self.transformer = T5EncoderModel.from_pretrained(model_dir)
        self.max_length = max_length


class _Conditioner(nn.Module):
    def __init__(self, params: Any) -> None:
        super().__init__()
        self.embedders = nn.ModuleList([_Embedder(**params)])

    def get_unconditional_conditioning(
        self, batch: Any, batch_uc: Any, force_uc_zero_embeddings: list[str]
    ) -> Any:
        embedder: Any = self.embedders[0]
        tokens = embedder.tokenizer(
            batch["txt"], truncation=True, max_length=embedder.max_length, padding="max_length",
            return_tensors="pt",
        )  # fmt: skip
        text = embedder.transformer(input_ids=tokens["input_ids"]).last_hidden_state
        return {"crossattn": text}, {"crossattn": torch.zeros_like(text)}


class _Wrapper(nn.Module):
    def __init__(self, diffusion_model: nn.Module) -> None:
        super().__init__()
        self.diffusion_model = diffusion_model

    def forward(self, x: Tensor, timesteps: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.diffusion_model(x, timesteps, cond["crossattn"])


class _Denoiser(nn.Module):
    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self.schedule = schedule

    def possibly_quantize_sigma(self, sigma: Tensor) -> Tensor:
        return denoiser_levels(self.schedule, sigma.reshape(-1)).view(sigma.shape)

    def forward(self, network: Any, x: Tensor, sigma: Tensor, cond: Any, idx: Tensor) -> Tensor:
        level = self.possibly_quantize_sigma(sigma)[:1]
        return Denoiser(network, self.schedule).clean(network(x, idx, cond), x, level)


class SATVideoDiffusionEngine(nn.Module):
    def __init__(self, args: Any, **_: Any) -> None:
        super().__init__()
        settings = args.model_config
        with TemporaryDirectory() as work:
            path = Path(work) / "model.yaml"
            OmegaConf.save({"model": settings}, path)
            config = read_config(path)
        names = {"bf16": torch.bfloat16, "fp16": torch.float16}
        self.dtype = next((d for n, d in names.items() if getattr(args, n)), torch.float32)
        self.device = args.device
        self.scale_factor = config.scale_factor
        self.model = _Wrapper(DiffusionTransformer(config.transformer, self.dtype))
        self.denoiser = _Denoiser(config.denoiser_schedule)
        self.sampler = instantiate_from_config(settings.sampler_config)
        self.conditioner = _Conditioner(settings.conditioner_config.params.emb_models[0].params)
        self.first_stage_model = VideoAutoencoderInferenceWrapper(config.vae)
        stored = torch.load(settings.first_stage_config.params.ckpt_path, weights_only=True)
        self.first_stage_model.load_state_dict(stored["state_dict"])

    def sample(self, cond: Any, uc: Any, batch_size: int, shape: Any) -> Tensor:
        noise = torch.randn(batch_size, *shape)
        if hasattr(self, "seeded_noise"):
            noise = self.seeded_noise(noise)

        def denoiser(x: Tensor, sigma: Tensor, c: Any, **further: Any) -> Tensor:
            return self.denoiser(self.model, x, sigma, c, **further)

        samples = self.sampler(denoiser, noise, cond, uc=uc, scale=None, scale_emb=None)
        return samples.to(self.dtype)
