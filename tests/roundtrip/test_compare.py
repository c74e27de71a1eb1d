"""Each way in which tensors can change has its name, and nothing else is called a change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backends.roundtrip.compare import compare_settings, compare_tensors, matters

Tensors = dict[str, Tensor]


def some(dtype: torch.dtype = torch.float32) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return {
        f"transformer/blocks.{i}.{part}.weight": torch.randn(4, 3, generator=generator).to(dtype)
        for i in range(3)
        for part in ("q", "k")
    }


FIRST = "transformer/blocks.0.k.weight"


def kinds(before: Tensors, after: Tensors, **others: Tensors) -> dict[str, int]:
    return {change.kind: change.count for change in compare_tensors(before, after, others)}


def test_equal_bits_are_no_change_whatever_the_storage() -> None:
    before = some() | {"odd": torch.tensor([float("nan"), -0.0])}
    after = {name: tensor.clone().t().contiguous().t() for name, tensor in before.items()}
    assert compare_tensors(before, after) == []


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_values_lost_through_a_narrower_dtype(half: torch.dtype) -> None:
    before = some()
    kept = {name: tensor.to(half) for name, tensor in before.items()}
    assert kinds(before, kept) == {"dtype": 6, "rounded": 6}
    back = {name: tensor.float() for name, tensor in kept.items()}
    assert kinds(before, back) == {"rounded": 6}
    assert str(half).removeprefix("torch.") in compare_tensors(before, back)[0].detail


def test_a_master_copy_in_place_of_the_weights() -> None:
    master, before = some(), {n: t.bfloat16() for n, t in some().items()}
    assert kinds(before, master) == {"dtype": 6, "unrounded": 6}
    assert kinds({n: t.float() for n, t in before.items()}, master) == {"unrounded": 6}


def test_a_wider_dtype_alone_is_said_but_does_not_matter() -> None:
    before = some(torch.bfloat16)
    changes = compare_tensors(before, {name: tensor.float() for name, tensor in before.items()})
    assert [(c.kind, c.count) for c in changes] == [("widened", 6)]
    assert not matters(changes)
    narrower = compare_tensors({n: t.float() for n, t in before.items()}, before)
    assert [c.kind for c in narrower] == ["dtype"]
    assert matters(narrower)


@pytest.mark.parametrize(("old", "new"), [("transformer/", "transformer/module."), ("transformer/", ""),
                                          ("transformer/bl", "transformer/module.bl")])  # fmt: skip
def test_another_prefix_is_a_renaming_not_a_loss(old: str, new: str) -> None:
    before = some() | {"transformer/blocks_out.weight": torch.ones(2)}
    after = {new + name.removeprefix(old): tensor for name, tensor in before.items()}
    (change,) = compare_tensors(before, after)
    assert (change.kind, change.count) == ("renamed", 7)
    after[new + FIRST.removeprefix(old)] = before[FIRST] + 1.0
    assert kinds(before, after) == {"renamed": 7, "values": 1}


def test_missing_and_added() -> None:
    before, after = some(), some()
    del after[FIRST]
    after["transformer/extra"] = torch.ones(1)
    assert kinds(before, after) == {"missing": 1, "added": 1}


def test_one_factor_is_recognised() -> None:
    before = some()
    after = {n: t * 0.25 if n == FIRST else t for n, t in before.items()}
    (change,) = compare_tensors(before, after)
    assert (change.names, change.kind) == ((FIRST,), "values")
    assert "the values before times 0.25" in change.detail


def test_values_shapes_and_the_sign_of_zero() -> None:
    before, after = some(), some()
    after[FIRST][0, 0] += 1e-6
    (change,) = compare_tensors(before, after)
    assert change.detail.startswith("other values; relative L2")
    assert kinds(before, some() | {FIRST: torch.zeros(3, 4)}) == {"shape": 1}
    assert kinds({"a": torch.zeros(2)}, {"a": -torch.zeros(2)}) == {"zero_sign": 1}
    assert matters(compare_tensors({"a": torch.zeros(2)}, {"a": -torch.zeros(2)}))


def test_another_set_of_weights_nearby_is_named() -> None:
    before, after = some(), {n: t + 0.1 for n, t in some().items()}
    assert kinds(before, after, ema=dict(after)) == {"copy": 6, "values": 6}
    assert "copy" not in kinds(before, after, ema=some())


def test_settings() -> None:
    changes = compare_settings({"a": 1, "b": 2.0, "c": None}, {"a": 1, "b": 0.5})
    assert [c.names for c in changes] == [("b",), ("c",)]
    assert "2.0 became 0.5" in changes[0].detail
