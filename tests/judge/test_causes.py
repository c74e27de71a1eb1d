"""Every component with evidence is named, and what a fault hides is said."""

from harness.judge.causes import causes, obscured
from harness.records import Component, Evidence


def _differs(stage: str, name: str, component: Component | None) -> Evidence:
    check = f"native.candidate.{name}" if stage == "native" else f"{stage}.{name}"
    return Evidence(stage=stage, check=check, component=component, outcome="differs", detail="")


def test_all_components_with_evidence_are_named_not_the_first_alone() -> None:
    evidence = [
        _differs("collapse", "decoder", "decoder"),
        _differs("exact", "schedule", "schedule"),
        _differs("native", "between", "loop"),
        _differs("collapse", "text", "text"),
    ]
    named = [f.component for f in causes(evidence, [], {})]
    assert named == ["text", "schedule", "decoder", "loop"]
    assert obscured(evidence) == []


def test_a_stage_that_explains_a_native_check_is_named_alone_and_what_it_hides_is_said() -> None:
    evidence = [
        _differs("collapse", "decoder", "decoder"),
        _differs("collapse", "guidance", "guidance"),
        _differs("native", "frames", "frames"),
        _differs("native", "region", "frames"),
        _differs("native", "transformer", "transformer"),
    ]
    assert [f.component for f in causes(evidence, [], {})] == ["guidance", "decoder"]
    assert obscured(evidence) == [
        "Whether the frames are at fault, too, shows only once the decoder is mended.",
        "Whether the loop is at fault, too, shows only once the guidance is mended.",
    ]


def test_without_such_a_stage_the_native_check_names_the_loop_and_the_frames() -> None:
    evidence = [
        _differs("native", "transformer", "transformer"),
        _differs("native", "frames", "frames"),
    ]
    assert [f.component for f in causes(evidence, [], {})] == ["loop", "frames"]
    assert obscured(evidence) == []


def test_a_run_that_differs_from_its_own_stages_has_a_fault_around_them_too() -> None:
    evidence = [
        _differs("collapse", "decoder", "decoder"),
        _differs("native", "frames", "frames"),
        _differs("native", "itself.frames", "frames"),
    ]
    assert [f.component for f in causes(evidence, [], {})] == ["decoder", "frames"]
    assert obscured(evidence) == []


def test_only_the_solver_steps_stay_hidden_where_a_run_was_held_against_its_own_stages() -> None:
    evidence = [
        _differs("collapse", "decoder", "decoder"),
        _differs("collapse", "solver", "solver"),
        _differs("native", "frames", "frames"),
        _differs("native", "solver", "solver"),
        _differs("native", "itself.frames", "frames").model_copy(update={"outcome": "agrees"}),
    ]
    assert [f.component for f in causes(evidence, [], {})] == ["solver", "decoder"]
    assert obscured(evidence) == [
        "Whether the loop is at fault, too, shows only once the solver is mended."
    ]
