"""The chain of evidence as the page groups it: stages in order, what tells first, nothing lost."""

import math

from synthetic_runs import Synthetic

from harness.records import Evidence, Finding, PairResult, Share
from harness.report.evidence import Stage, by_stage, read_chain
from harness.report.shares import share_bars


def evidence(check: str, outcome: str = "agrees", **more: object) -> Evidence:
    values = {"stage": check.split(".")[0], "check": check, "outcome": outcome, "detail": "d"}
    return Evidence.model_validate(values | more)


def stages(run: Synthetic, *checks: Evidence) -> list[Stage]:
    run.pair("bug", "b", evidence=list(checks))
    pair: PairResult = run.pairs[0]
    return by_stage(read_chain(pair))


def test_no_check_is_lost_and_the_order_stays(run: Synthetic) -> None:
    checks = [
        evidence("collapse.text", component="text"),
        evidence("collapse.solver", "differs", component="solver"),
        evidence("native.candidate.initial", component="noise"),
        evidence("collapse.text", "unscored"),
    ]
    found = stages(run, *checks)
    assert [stage.seen for stage in found] == ["differs", "agrees"]
    assert found[0].counts == "1 differs, 1 unscored, 1 agrees"
    every = [link.check for stage in found for link in (*stage.shown, *stage.folded)]
    assert sorted(map(str, every)) == sorted(map(str, checks))
    assert [link.check for link in found[0].shown] == [checks[1], checks[3]]


def test_where_all_agree_the_check_nearest_to_its_limit_is_shown(run: Synthetic) -> None:
    (stage,) = stages(
        run,
        evidence("free.a", value=math.nan, limit=1.0),
        evidence("free.b", value=0.2, limit=1.0),
        evidence("free.c", value=0.9, limit=1.0),
        evidence("free.d", value=60.0, limit=52.0, higher_is_worse=False),
        evidence("free.e", "noted"),
    )
    assert [link.check.check for link in stage.shown] == ["free.c"]
    assert stage.seen == "noted"


def test_checks_have_words_and_unknown_ones_their_own_name(run: Synthetic) -> None:
    checks = [
        evidence("native.candidate.region", component="frames"),
        evidence("collapse.decoder", component="decoder"),
        evidence("collapse.unconditional", component="text"),
        evidence("statistics.rank"),
        evidence("a new check", stage="a new stage"),
    ]
    found = stages(run, *checks)
    titles = [link.title for stage in found for link in (*stage.shown, *stage.folded)]
    assert titles == [
        "VAE decoder", "unconditional embedding", "candidate's own run: worst region of a frame",
        "rank e-value", "a new check",
    ]  # fmt: skip
    assert found[-1].title == "a new stage"


def test_policies_have_shares_where_components_have_none(run: Synthetic) -> None:
    findings = [
        Finding(kind="policy", name="a", detail="d", known="zero_snr_subset", share=-0.1),
        Finding(kind="policy", name="b", detail="d", known="unconditional_branch", share=1.1),
        Finding(kind="policy", name="c", detail="d", known="uint8_export"),
    ]
    run.pair("policy", "b", findings=findings)
    run.pair("bug", "c", findings=findings,
             shares=[Share(component="solver", share=1.0, low=0.9, high=1.1)])  # fmt: skip
    policies, components = map(share_bars, run.pairs)
    assert [(bar.title, bar.shown, bar.interval) for bar in policies] == [
        ("unconditional branch", "110 %", "—"), ("zero snr subset", "-10 %", "—"),
    ]  # fmt: skip
    assert policies[1].bar is not None and policies[1].bar[0] < policies[1].zero
    assert [(bar.title, bar.interval) for bar in components] == [("solver", "90 % to 110 %")]
