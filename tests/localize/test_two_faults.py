"""The table of two faults at once counts what was named, and keeps the place's cost apart."""

from harness.records import Component, Share
from tests.selftest.choose import choose_pairs
from tests.selftest.two_faults import TwoFaults, markdown, summary


def _outcome(named: tuple[Component, ...], **changes: object) -> TwoFaults:
    blank = TwoFaults(id="a+b", model="micro-2b", places=(["transformer"], ["noise", "solver"]))
    return blank.model_copy(update={"named": named, "verdict": "bug", **changes})


def test_both_are_named_where_each_fault_has_one_of_its_components() -> None:
    assert _outcome(("solver", "transformer")).found == (True, True)
    assert _outcome(("transformer", "loop")).found == (True, False)


def test_the_summary_counts_pairs_and_what_the_place_cost() -> None:
    outcomes = [
        _outcome(("solver", "transformer"), guided_calls=90, locating_calls=30),
        _outcome(("transformer",), guided_calls=50, locating_calls=10),
        _outcome((), verdict=None, error="out of memory"),
    ]
    text = summary(outcomes)
    assert "pairs called a bug: 2 of 3" in text
    assert "both faults named: 1 of 3" in text and "one of the two named: 1 of 3" in text
    assert "verdict 50 guided calls, with the place 70 (1.40 times), mean of 2" in text


def test_the_table_shows_shares_with_intervals_and_marks_what_was_missed() -> None:
    share = Share(component="solver", share=0.25, low=0.1, high=0.5)
    table = markdown([_outcome(("solver",), shares=(share,))])
    assert "solver 25.0% (10.0% to 50.0%)" in table
    assert "**not both**" in table
    assert "transformer + noise or solver" in table


def test_pairs_are_chosen_like_other_rows() -> None:
    assert len(choose_pairs(None, None)) >= 20
    assert [pair.id for pair in choose_pairs("^rope_theta", None)] == [
        "rope_theta+decoder_scaling_factor"
    ]
    assert len({pair.setting.model for pair in choose_pairs(None, 4)}) == 2
