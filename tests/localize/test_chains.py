"""Hybrid runs share every call that they have in common, and none needs two pipelines open at once."""

from itertools import chain, combinations, pairwise

import pytest

from harness.localize.chains import Chains
from harness.records import Component

STEPS = (0, 4, 7)


def _subsets(differing: tuple[Component, ...]) -> list[frozenset[Component]]:
    sizes = range(len(differing) + 1)
    return [frozenset(s) for s in chain.from_iterable(combinations(differing, n) for n in sizes)]


def _chains(*differing: Component, images: bool = False) -> tuple[Chains, list[str]]:
    chains = Chains(differing, STEPS, 8, images)
    return chains, [chains.end(chosen, 0) for chosen in _subsets(differing)]


@pytest.mark.parametrize(
    ("differing", "calls"),
    [
        (("transformer", "decoder"), 2 * 3),  # the decoder is exchanged on the same latents
        (("schedule", "noise"), 4 * 3),
        (("text", "guidance"), 2 + 4 + 4),  # guidance comes after the first prediction
        (("guidance", "solver"), 1 + 4 + 4),
        (("solver", "decoder"), 1 + 2 + 2),
    ],
)
def test_what_hybrids_have_in_common_is_computed_once(
    differing: tuple[Component, ...], calls: int
) -> None:
    chains, ends = _chains(*differing)
    assert chains.guided_calls == calls
    assert len(set(ends)) == 4


@pytest.mark.parametrize(
    "differing", [("transformer", "decoder"), ("guidance", "solver"), ("text", "transformer")]
)
def test_one_side_is_open_at_a_time_and_every_call_finds_what_it_needs(
    differing: tuple[Component, ...],
) -> None:
    chains, _ = _chains(*differing)
    made = set[str]()
    phases = list(chains.phases())
    for side, batch in phases:
        for call in batch:
            assert call.side in (side, None)
            assert made.issuperset(call.needs)
            made.add(call.question.id)
    assert made == set(chains.calls)
    assert all(a != b for (a, _), (b, _) in pairwise(phases))


def test_sides_change_seldom_where_only_one_link_of_the_loop_differs() -> None:
    chains, _ = _chains("transformer", "decoder")
    assert len(list(chains.phases())) <= 4


def test_the_solver_starts_anew_so_that_its_state_is_its_own() -> None:
    chains, _ = _chains("transformer", "solver")
    last = [c.question for c in chains.calls.values() if c.question.until == 8]
    assert last
    for question in last:
        assert question.source.startswith("start") and question.steps == STEPS
        assert len(question.sources) == len(STEPS)


def test_an_image_is_brought_only_where_it_is_exchanged() -> None:
    with_image, _ = _chains("image_encoder", "transformer", images=True)
    without, _ = _chains("noise", "transformer")
    assert {c.question.image for c in with_image.calls.values() if c.question.kind == "predict"} == {
        "image0.s0", "image1.s0",
    }  # fmt: skip
    assert all(not c.question.image for c in without.calls.values())
