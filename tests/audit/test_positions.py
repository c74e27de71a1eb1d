"""Position embeddings: a learned one that was not loaded (W06), a table not as configured (W07)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from audit_models import Model, State
from torch import Tensor

from harness.audit import audit
from harness.records import Finding

NAME = "patch_embed.pos_embedding"
SIZE = (1, 16 + 3 * 3 * 4, 128)


def sin_cos() -> Tensor:
    """Diffusers' own default, as the constructor leaves it."""
    from tiny_pipelines import Kind, tiny_transformer

    table = tiny_transformer(Kind(rotary=False)).patch_embed.pos_embedding
    assert tuple(table.shape) == SIZE
    return table.float()


def holding(table: Tensor | None) -> State:
    return {} if table is None else {NAME: table}


def findings(model: Model, broken: Model, tmp_path: Path, table: Tensor | None) -> list[Finding]:
    """The reference has learned positions, the candidate `table`."""
    learned = 0.3 * torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
    base = model.copy(tmp_path / "base").edit(lambda state: state.update({NAME: learned}))
    broken.edit(lambda state: state.update(holding(table)))
    return audit(base.folder, broken.folder).findings


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: torch.zeros(SIZE), "all zeros: the learned position embedding was not loaded"),
        (sin_cos, "the sin-cos default (interpolation (1.875, 1.0)) stands where"),
        (
            lambda: torch.randn(SIZE, generator=torch.Generator().manual_seed(3)),
            "normal noise of standard deviation 1, as a table begins before it is trained",
        ),
        (lambda: None, "the candidate lacks the learned position embedding"),
    ],
)
def test_learned_positions_that_were_not_loaded(
    make: object, says: str, model: Model, broken: Model, tmp_path: Path
) -> None:
    assert callable(make)
    (finding,) = findings(model, broken, tmp_path, make())
    assert says in finding.detail
    assert (finding.name, finding.component) == (f"transformer.{NAME}", "transformer")


def test_other_learned_positions_are_not_taken_for_the_default(
    model: Model, broken: Model, tmp_path: Path
) -> None:
    other = 0.3 * torch.randn(SIZE, generator=torch.Generator().manual_seed(2))
    (finding,) = findings(model, broken, tmp_path, other)
    assert "holds other values" in finding.detail
    assert "sin-cos" not in finding.detail and "normal noise" not in finding.detail


def test_a_stored_table_that_the_settings_do_not_imply(
    model: Model, sat_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sat"
    shutil.copytree(sat_folder, folder)
    (states,) = (folder / "transformer").glob("*/*.pt")
    content = torch.load(states, weights_only=True)
    name = "model.diffusion_model.mixins.pos_embed.freqs_sin"
    content["module"][name] = content["module"][name] * 0.5
    torch.save(content, states)
    (finding,) = audit(model.folder, folder).findings
    assert finding.name == "transformer.mixins.pos_embed.freqs_sin"
    assert "not the one that its settings imply" in finding.detail


def test_a_table_computed_from_other_settings(tmp_path: Path) -> None:
    """W07: the 2B's sin-cos table is computed from the settings, so a wrong one is a wrong table."""
    from tiny_pipelines import save_pipeline

    base = Model(save_pipeline(tmp_path / "base", "2b"))
    other = base.copy(tmp_path / "other")
    other.configure("transformer/config.json", spatial_interpolation_scale=1.0)
    (finding,) = audit(base.folder, other.folder).findings
    assert finding.name == "transformer.spatial_interpolation_scale"
    assert "divides positions in the sin-cos table" in finding.detail
    assert (finding.reference, finding.candidate) == (1.875, 1.0)
