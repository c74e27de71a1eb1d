"""The layout operations are inverse to each other, and tables leave no tensor unexplained."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backends.checkpoints.mapping import MODULATION, QKV
from backends.checkpoints.rules import Layout, Rule, Table
from backends.checkpoints.tensors import LazyTensors, digest
from backends.errors import CheckpointError


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    order = draw(st.permutations(range(draw(st.integers(1, 8)))))
    cuts = sorted(draw(st.sets(st.integers(1, len(order) - 1)))) if len(order) > 1 else []
    starts, ends = [0, *cuts], [*cuts, len(order)]
    return Layout(tuple(tuple(order[a:b]) for a, b in zip(starts, ends, strict=True)))


@st.composite
def bits(draw: st.DrawFn, chunks: int) -> Tensor:
    """A tensor of arbitrary bit patterns, NaNs with payloads included."""
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64]))
    shape = (chunks * draw(st.integers(1, 3)), *draw(st.lists(st.integers(1, 3), max_size=2)))
    width = torch.empty((), dtype=dtype).element_size()
    size = torch.Size(shape).numel() * width
    raw = draw(st.binary(min_size=size, max_size=size))
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_split_and_join_are_inverse_to_the_bit(data: st.DataObject) -> None:
    layout = data.draw(st.one_of(layouts(), st.sampled_from([QKV, MODULATION])))
    whole = data.draw(bits(layout.chunks))
    pieces = layout.split(whole)
    assert digest(layout.join(pieces)) == digest(whole)
    again = layout.split(layout.join(pieces))
    assert [digest(piece) for piece in again] == [digest(piece) for piece in pieces]


def test_chunks_land_where_both_code_bases_read_them() -> None:
    """Row k of the SAT tensor holds k, so every Diffusers row tells where it came from."""
    q, k, v = QKV.split(torch.arange(6))
    assert (q.tolist(), k.tolist(), v.tolist()) == ([0, 1], [2, 3], [4, 5])
    # SAT: shift, scale, gate of attention, then of the MLP, for the video, then all six for the text.
    attention, mlp = MODULATION.split(torch.arange(12))
    assert attention.tolist() == [0, 1, 2, 6, 7, 8]
    assert mlp.tolist() == [3, 4, 5, 9, 10, 11]


TABLE = Table(
    "transformer",
    (Rule("joint", ("q", "k", "v"), QKV), *Rule("a.{n}", ("b.{n}",)).over(n=("x", "y"))),
)


def test_unknown_and_missing_names_are_all_listed() -> None:
    tensors = dict.fromkeys(("joint", "a.x", "stranger", "adapter.lora_A"), torch.zeros(3))
    with pytest.raises(CheckpointError) as caught:
        TABLE.to_diffusers(tensors)
    for part in ("2 without a rule: adapter.lora_A, stranger", "1 missing: a.y", "transformer: "):
        assert part in str(caught.value)
    with pytest.raises(CheckpointError, match=r"1 missing: k\."):
        TABLE.to_sat(dict.fromkeys(("q", "v", "b.x", "b.y"), torch.zeros(3)))


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ((torch.zeros(2), torch.zeros(2), torch.zeros(3)), "different shapes"),
        ((torch.zeros(2), torch.zeros(2), torch.zeros(2).half()), "mixed dtypes"),
    ],
)
def test_pieces_that_do_not_fit_are_refused_by_name(
    pieces: tuple[Tensor, ...], problem: str
) -> None:
    state = {**dict(zip(("q", "k", "v"), pieces, strict=True)), "b.x": pieces[0], "b.y": pieces[0]}
    with pytest.raises(CheckpointError, match=f"q, k, v: .*{problem}"):
        TABLE.to_sat(state)["joint"]


def test_rows_that_do_not_divide_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"joint: shape \(4,\) does not divide into 3"):
        TABLE.to_diffusers({"joint": torch.zeros(4), "a.x": torch.zeros(1), "a.y": torch.zeros(1)})[
            "q"
        ]


def test_tensors_are_loaded_one_at_a_time_and_only_when_asked_for() -> None:
    loaded: list[str] = []

    def loader(name: str) -> Tensor:
        loaded.append(name)
        return torch.arange(3)

    source = LazyTensors({n: lambda n=n: loader(n) for n in ("joint", "a.x", "a.y")})
    canonical = TABLE.to_diffusers(source)
    assert set(canonical) == {"q", "k", "v", "b.x", "b.y"}
    assert not loaded
    assert canonical["k"].tolist() == [1]
    assert loaded == ["joint"]


def test_digest_counts_dtype_shape_and_bits_but_not_strides() -> None:
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    assert digest(tensor) == digest(tensor.t().contiguous().t())
    different = (tensor.reshape(3, 2), tensor.to(torch.float64), tensor + 1, tensor.int())
    assert len({digest(t) for t in (tensor, *different)}) == 5
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))
    assert digest(torch.tensor(1.5)) != digest(torch.tensor([1.5]))
