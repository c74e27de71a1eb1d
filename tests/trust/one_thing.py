"""Change one thing of a pair at a time, and see that no change that alters a bit of any stage passes.

    python -m tests.trust.one_thing --log tests/trust/ONE_THING.md
    python -m tests.trust.one_thing --most variables=30 --judged weights=6

Each change is rendered in the store in which the unchanged pair lies. What came out of that store is
rendered once more in an empty one, and has to be equal. Where a bit of any stage is another, the pair is
judged in the same store, and no verdict may be a pass, but one that asked both sides anew.
"""

from __future__ import annotations

import argparse
import platform
import random
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config.config import CandidateSpec
from harness.records import EQUIVALENT, PairResult
from tests.trust.one_thing_changes import all_changes
from tests.trust.one_thing_pair import Change, Pair

ASKED_ANEW = ("rounding", "approximation")
"""Passes that a change may end in, if its stages were asked: an error as small as a healthy member's,
and an option that is meant to change the result, which both sides were given."""


_EXPLAINED = """\
Each change is made to the candidate of a pair that is equal in every bit (micro-2b, 2 steps), and
rendered in the store in which the unchanged pair lies. Where a bit of any stage is another, the pair is
judged there. `rendered anew`: a bit is another, and no verdict was asked for. `not rendered`: the stack
refuses it, or it cannot be had here. `another key`: a comment in a source, which was not rendered.
A pass as `rounding` or `approximation` is one only if both sides were asked anew and nothing is missing.

Weights: the lowest bit of one element of every tensor. Settings: every key of every JSON file of the
checkpoint. Files: a bit of every other file. Options: every other value. Variables: every one that a
source which was read asks for, exported by the candidate's interpreter. Remarks: a comment in every
source of the stack and of `backends` that was read. Numbers: 0.1 % on what one function returns.
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a change. `ended` is the verdict, or what made one needless; `altered` are the
    stages of which a bit is another; `wrong` says why it is a false pass."""

    change: Change
    ended: str
    altered: tuple[str, ...] = ()
    wrong: str = ""


def tried(pair: Pair, change: Change, judge: bool = True) -> Outcome:
    """Make one change, render, and judge the pair if a bit is another and `judge`."""
    with pair.changed(change) as candidate:
        if change.kind == "remarks":
            return _addressed(pair, change, candidate)
        record, served = pair.rendered(candidate)
        if record.status != "ok":
            return Outcome(change, "not rendered")
        got = pair.stages_of(pair.store, record)
        truth = pair.rendered_alone(candidate) if served else got
        altered = tuple(name for name, digest in truth.items() if pair.stages.get(name) != digest)
        if got != truth:
            return Outcome(change, "stale", altered, "its render came from before the change")
        if not altered:
            return Outcome(change, "no bit altered")
        if not judge:
            return Outcome(change, "rendered anew", altered)
        before = pair.probes()
        result = pair.judged(candidate)
        return Outcome(change, result.verdict, altered, _wrong(result, pair.probes() - before))


def _addressed(pair: Pair, change: Change, candidate: CandidateSpec) -> Outcome:
    """A remark changes no bit, but only a reader knows that: nothing may be found under its key."""
    key = pair.address(candidate)
    found = key == pair.key or pair.store.find(key) is not None
    return Outcome(change, "another key", (), "it has the key of before" if found else "")


def _wrong(result: PairResult, answers: int) -> str:
    if result.verdict not in EQUIVALENT:
        return ""
    if result.verdict not in ASKED_ANEW:
        return f"a bit is another, and the verdict is {result.verdict}"
    missing = [what for part in result.coverage for what in part.missing]
    if missing:
        return f"passed as {result.verdict} without {missing}"
    return "" if answers else f"passed as {result.verdict} on answers of before"


def sampled(changes: Sequence[Change], most: Mapping[str, int], seed: int) -> list[Change]:
    """Of each kind at most so many, by chance; all of a kind that `most` does not name."""
    kinds = list(dict.fromkeys(change.kind for change in changes))
    found: list[Change] = []
    for kind in kinds:
        mine = [change for change in changes if change.kind == kind]
        random.Random(f"{seed} {kind}").shuffle(mine)
        found += mine[: most.get(kind)]
    return found


def outcomes(pair: Pair, changes: Sequence[Change], judged: Mapping[str, int]) -> Iterator[Outcome]:
    """Try every change; of each kind judge at most so many of those that alter a bit, or all."""
    left = {change.kind: judged.get(change.kind, len(changes)) for change in changes}
    for change in changes:
        outcome = tried(pair, change, left[change.kind] > 0)
        left[change.kind] -= bool(outcome.altered)
        yield outcome


def still_unchanged(pair: Pair) -> bool:
    """Whether the unchanged pair is served from the store, with the bits and the verdict it had."""
    record, served = pair.rendered(pair.candidate)
    same = served and pair.stages_of(pair.store, record) == pair.stages
    return same and pair.judged(pair.candidate).verdict == pair.result.verdict == "bit_exact"


def main(arguments: Sequence[str]) -> int:
    """Try the changes that the command line asks for; 1 if any is a false pass."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.one_thing", description=__doc__)
    parser.add_argument("--most", nargs="*", default=[], help="KIND=N: at most N changes of a kind")
    parser.add_argument("--judged", nargs="*", default=[], help="KIND=N: judge at most N of a kind")
    parser.add_argument("--only", default="", help="only changes with this in their name")
    parser.add_argument("--seed", type=int, default=0, help="which changes are taken")
    parser.add_argument("--log", type=Path, help="write the table here")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="one-thing-") as folder:
        pair = Pair(Path(folder))
        every = [change for change in all_changes(pair) if asked.only in change.name]
        chosen = sampled(every, _counts(asked.most), asked.seed)
        found: list[Outcome] = []
        for outcome in outcomes(pair, chosen, _counts(asked.judged)):
            found.append(outcome)
            what = f"{outcome.change.kind}: {outcome.change.name}: {outcome.ended}"
            print(f"{time.strftime('%T')} {what} {outcome.wrong}".rstrip(), flush=True)
        lasting = still_unchanged(pair)
        if asked.log:
            command = f"python -m tests.trust.one_thing {shlex.join(arguments)}"
            asked.log.write_text(_table(every, found, command, pair))
    wrong = [outcome for outcome in found if outcome.wrong]
    print(f"{len(found)} tried of {len(every)}, {len(wrong)} false passes")
    if not lasting:
        print("the unchanged pair is another now: nothing above counts")
    return int(bool(wrong) or not lasting)


def _counts(words: Sequence[str]) -> dict[str, int]:
    return {kind: int(count) for kind, _, count in (word.partition("=") for word in words)}


def _table(every: Sequence[Change], found: Sequence[Outcome], command: str, pair: Pair) -> str:
    ran = pair.record.environment
    stack = ", ".join(f"{name} {ran[name]}" for name in ("torch", "diffusers", "transformers"))
    wrong = [outcome for outcome in found if outcome.wrong]
    cpu = ran["cpu"].partition(" (")[0]
    altered = sum(bool(outcome.altered) for outcome in found)
    lines = [
        "# One thing at a time",
        "",
        f"`{command}`, one core of {cpu}, Python {platform.python_version()}, {stack}.",
        "",
        _EXPLAINED,
        f"**{len(found)} tried of {len(every)}; {altered} alter a bit; {len(wrong)} false passes.**",
        "",
        "| kind | there are | tried | alter a bit | ended as |",
        "|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(change.kind for change in every):
        mine = [outcome for outcome in found if outcome.change.kind == kind]
        ends = Counter(outcome.ended for outcome in mine).most_common()
        lines.append(
            f"| {kind} | {sum(c.kind == kind for c in every)} | {len(mine)}"
            f" | {sum(bool(o.altered) for o in mine)}"
            f" | {', '.join(f'{count} {name}' for name, count in ends)} |"
        )
    passes = [o for o in found if o.ended in ASKED_ANEW]
    lines += ["", "Passed, asked anew:", *(f"* {o.change.name}: {o.ended}" for o in passes)]
    lines += [f"* **{o.change.kind}, {o.change.name}**: {o.wrong}" for o in wrong]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
