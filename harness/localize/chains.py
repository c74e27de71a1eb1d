"""Runs whose parts come from two pipelines, as a graph of stage calls. Pure.

A run is initial latents, then for each probed step a prediction, its guidance and the solver's way to
the next one, and the decoder at the end. Each call is known by everything that it depends on, so calls
that two hybrids have in common are made once. A component in which the two sides agree is answered by
whichever is open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from backends.stages.questions import Question
from harness.records import Component

EXCHANGED: tuple[Component, ...] = (
    "text", "image_encoder", "schedule", "noise", "transformer", "guidance", "solver", "decoder",
)  # fmt: skip
"""The components that the stage contract can take from the other side. The loop, and what happens to
frames after it, act in a stack's own run alone."""


@dataclass(frozen=True)
class Call:
    """One stage call; `needs` are calls whose answers it names.

    `side` is 0 for the reference, 1 for the candidate, None for either. `text` and `schedule` are the
    sides whose text embeddings and noise schedule it is given.
    """

    question: Question
    side: int | None
    text: int
    schedule: int
    needs: tuple[str, ...]


class Chains:
    """The calls of every hybrid that was asked for; `calls` is in an order in which they can be made.

    Starts are tensors that must be brought: `start(side, seed)` and, with `images`, `image(side, seed)`.
    """

    def __init__(
        self, differing: Sequence[Component], steps: Sequence[int], total: int, images: bool
    ) -> None:
        self._differing, self._steps, self._total = tuple(differing), tuple(steps), total
        self._images = images
        self._known: dict[tuple[Question, int | None, int, int], str] = {}
        self.calls: dict[str, Call] = {}

    @property
    def guided_calls(self) -> int:
        """Guided transformer calls that the calls cost together."""
        return sum(call.question.kind == "predict" for call in self.calls.values())

    def end(self, chosen: AbstractSet[Component], seed: int) -> str:
        """The tensor at the end of the run that has the candidate's `chosen` components: frames where
        the decoder is among the components that differ, else the final latents."""

        def side(component: Component) -> int | None:
            return int(component in chosen) if component in self._differing else None

        def call(question: Question, component: Component, needs: tuple[str, ...]) -> str:
            given = side("text") or 0, side("schedule") or 0
            return self._call(replace(question, seed=seed), side(component), *given, needs)

        # A source clip is encoded into the initial latents.
        clip = None if self._images else side("image_encoder")
        first = start(side("noise") or clip or 0, seed)
        picture = image(side("image_encoder") or 0, seed) if self._images else ""
        latents, guided = first, tuple[str, ...]()
        for index, step in enumerate(self._steps):
            asked = Question("", "predict", steps=(step,), source=latents, image=picture)
            before = () if latents == first else (latents,)
            predicted = call(asked, "transformer", before)
            asked = Question("", "guide", steps=(step,), sources=(latents, predicted))
            guided = (*guided, call(asked, "guidance", (*before, predicted)))
            until = (*self._steps[1:], self._total)[index]
            asked = Question(
                "", "advance", steps=self._steps[: index + 1], source=first, sources=guided, until=until
            )  # fmt: skip
            latents = call(asked, "solver", guided)
        if "decoder" not in self._differing:
            return f"{latents}.{self._total}.in"
        asked = Question("", "decode", sources=(f"{latents}.{self._total}.in",))
        return f"{call(asked, 'decoder', (latents,))}.0.frames"

    def _call(
        self, question: Question, side: int | None, text: int, schedule: int, needs: tuple[str, ...]
    ) -> str:
        key = question, side, text, schedule
        if key not in self._known:
            name = f"{question.kind}{len(self._known)}"
            self._known[key] = name
            self.calls[name] = Call(replace(question, id=name), side, text, schedule, needs)
        return self._known[key]

    def phases(self) -> Iterator[tuple[int, list[Call]]]:
        """(side, calls that it can make now) until all are made: one pipeline open at a time, each
        taken as far as it comes."""
        done, side = set[str](), 0
        while len(done) < len(self.calls):
            batch: list[Call] = []
            for name, call in self.calls.items():
                ready = (
                    name not in done and call.side in (side, None) and done.issuperset(call.needs)
                )
                if ready:
                    batch.append(call)
                    done.add(name)
            if batch:
                yield side, batch
            side = 1 - side


def start(side: int, seed: int) -> str:
    """The name under which a side's initial latents must be brought, as `<name>.0.in`."""
    return f"start{side}.s{seed}"


def image(side: int, seed: int) -> str:
    """The name of a side's latents of the conditioning image."""
    return f"image{side}.s{seed}"
