"""One fine-tuning round trip through Diffusers' own save and load.

Full: `save_pretrained` and `from_pretrained` of the transformer. LoRA: `get_peft_model_state_dict`,
`save_lora_weights`, `load_lora_weights`. CogVideo's `finetune/trainer.py` saves a LoRA without the
metadata that keeps alpha; `metadata=False` does so too.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from backends.base import Pipeline
from backends.diffusers.adapter import DiffusersBackend
from backends.diffusers.lora import ADAPTER
from backends.roundtrip.models import overlay


class DiffusersDriver:
    """How Diffusers' users fine-tune; names of tensors are those of the saved files."""

    def __init__(
        self, model: Path, lora: Path | None, options: Mapping[str, Any], metadata: bool
    ) -> None:
        self._model, self._lora = model, lora
        self._options = dict(options)
        self._metadata = metadata

    def open(self) -> Pipeline:
        """The model before."""
        return self._opened(self._model, self._lora)

    def open_saved(self, folder: Path) -> Pipeline:
        """What was saved in `folder`, through Diffusers' own load."""
        if self._lora is None:
            return self._opened(folder, None)
        return self._opened(self._model, folder)

    def trainable(self, pipeline: Pipeline) -> list[nn.Parameter]:
        """What the optimiser is given."""
        transformer = self.network(pipeline)
        return [
            parameter
            for name, parameter in transformer.named_parameters()
            if self._lora is None or ".lora_" in name
        ]

    def network(self, pipeline: Pipeline) -> nn.Module:
        """The transformer, as the pipeline calls it."""
        pipe: Any = pipeline.native()
        return pipe.transformer

    def state(self, pipeline: Pipeline) -> dict[str, Tensor]:
        """The tensors in memory under the names that the saved files have."""
        transformer = self.network(pipeline)
        if self._lora is None:
            return {
                f"transformer/{name}": value for name, value in transformer.state_dict().items()
            }
        layers = _peft().get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
        return {f"transformer.{name}": value for name, value in layers.items()}

    def save(self, pipeline: Pipeline, folder: Path) -> None:
        """Save what was trained."""
        pipe: Any = pipeline.native()
        if self._lora is None:
            pipe.transformer.save_pretrained(str(folder / "transformer"))
            overlay(self._model, folder / "transformer", folder)
            return
        metadata: dict[str, Any] | None = None
        if self._metadata:
            metadata = pipe.transformer.peft_config[ADAPTER].to_dict()
        type(pipe).save_lora_weights(
            str(folder),
            transformer_lora_layers=_peft().get_peft_model_state_dict(
                pipe.transformer, adapter_name=ADAPTER
            ),
            transformer_lora_adapter_metadata=metadata,
        )

    def _opened(self, model: Path, lora: Path | None) -> Pipeline:
        options = self._options | ({} if lora is None else {"lora": str(lora)})
        pipeline = DiffusersBackend().open(str(model), options)
        return pipeline


def _peft() -> Any:
    return import_module("peft")
