"""The first wrong module, from made-up scans."""

import numpy as np
import pytest

from harness.judge.blocks import first_non_finite, locate
from harness.judge.measured import Answers
from harness.records import PipelineRecord

NAMES = ["t.blocks.0.attn.to_q", "t.blocks.0.attn.to_out", "t.blocks.0.attn", "t.blocks.0", "t"]


def _answers(
    names: list[str] = NAMES, **scans: tuple[dict[str, float], dict[str, float]]
) -> Answers:
    """Scans by question; each shifts the inputs and outputs of some modules by relative amounts."""
    tensors, facts = {}, {}
    base = np.random.default_rng(0).standard_normal((len(names), 512)).astype(np.float32)
    for question, (given, came) in scans.items():
        inputs, outputs = base.copy(), base.copy()
        for row, name in enumerate(names):
            inputs[row] *= 1 + given.get(name, 0.0)
            outputs[row] *= 1 + came.get(name, 0.0)
        tensors |= {f"{question}.inputs": inputs, f"{question}.outputs": outputs}
        facts[question] = {
            "names": names,
            "moments": [[512, float(np.linalg.norm(o)), float(o.mean())] for o in outputs],
        }
    empty = PipelineRecord(weights={}, dtypes={}, configs={}, policies={})
    return Answers(empty, tensors, facts, 0)


HEALTHY = {"jitter.scan": ({}, dict.fromkeys(NAMES, 1e-6))}


def _locate(given: dict[str, float], came: dict[str, float], names: list[str] = NAMES):
    reference = _answers(names, scan=({}, {}), **HEALTHY)
    return locate(reference, _answers(names, scan=(given, came)), ["jitter"], 3)


def test_rounding_is_in_no_module() -> None:
    assert _locate({}, dict.fromkeys(NAMES, 2e-6)) is None


def test_a_module_whose_input_agrees_is_the_culprit() -> None:
    place = _locate({}, dict.fromkeys(NAMES, 1e-3))
    assert place is not None and place.module == "t.blocks.0.attn.to_q"


def test_a_module_that_was_handed_something_wrong_is_not() -> None:
    """The attention between the projections is code of `attn`, not a module."""
    late = dict.fromkeys(NAMES[1:], 1e-3)
    place = _locate({"t.blocks.0.attn.to_out": 1e-3}, late)
    assert place is not None and place.module == "t.blocks.0.attn"
    assert "hands to to_out" in place.detail
    assert [row.module for row in place.scan] == NAMES


def test_the_component_itself_is_never_the_place() -> None:
    """Its name would say nothing; the module that is given something else does."""
    place = _locate({"t.blocks.0": 1e-3}, {"t.blocks.0": 1e-3, "t": 1e-3})
    assert place is not None and place.module == "t.blocks.0"
    assert place.detail.endswith("what it is given differs")


def test_the_first_module_that_is_not_finite_is_named() -> None:
    sick = _answers(scan=({}, {}))
    sick.tensors["scan.outputs"][1:] = np.inf
    sick.tensors["scan.inputs"][2:] = np.inf
    place = first_non_finite(sick, 4)
    assert place is not None and place.module == "t.blocks.0.attn.to_out"
    assert "step 4" in place.detail


def test_a_harmless_error_before_does_not_hide_the_jump() -> None:
    """A time embedding off by 6e-6, and an attention off by a third."""
    came = dict.fromkeys(NAMES[1:], 0.33) | {NAMES[0]: 6e-6}
    place = _locate({NAMES[1]: 6e-6}, came)
    assert place is not None and place.module == "t.blocks.0.attn.to_out"
    assert "to_q is off as well" in place.detail


def test_of_two_errors_the_one_that_gets_out_is_named_and_the_other_mentioned() -> None:
    names = ["t.a.dead", "t.a", "t.b.live", "t.b", "t"]
    wrong = dict.fromkeys([names[0], *names[2:]], 0.5)
    place = _locate({}, wrong, names)
    assert place is not None and place.module == "t.b.live"
    assert "t.a.dead is off as well" in place.detail and "nothing around it shows" in place.detail


def test_inherited_errors_that_grow_a_little_stay_the_first_ones() -> None:
    came = {name: 1e-4 * 3**i for i, name in enumerate(NAMES)}
    place = _locate(dict.fromkeys(NAMES[1:], 1e-4), came)
    assert place is not None and place.module == "t.blocks.0.attn.to_q"


@pytest.mark.parametrize("alike", [True, False])
def test_values_in_another_order_are_wrong_within_one_code_base(alike: bool) -> None:
    """Between two stacks they may be a matter of layout."""
    reference, other = _answers(scan=({}, {}), **HEALTHY), _answers(scan=({}, {}))
    for row in range(1, 5):
        other.tensors["scan.outputs"][row] = other.tensors["scan.outputs"][row][::-1]
    place = locate(reference, other, ["jitter"], 0, alike)
    assert (place is not None and place.module == "t.blocks.0.attn.to_out") == alike


def test_an_output_of_another_size_is_wrong_within_one_code_base() -> None:
    reference, other = _answers(scan=({}, {}), **HEALTHY), _answers(scan=({}, {}))
    for row in range(1, 5):
        other.facts["scan"]["moments"][row][0] = 500
    place = locate(reference, other, ["jitter"], 0, True)
    assert place is not None and place.module == "t.blocks.0.attn.to_out"
