"""What a probe asks of a pipeline: plain records that cross the process boundary. Imports no torch.

A probe is teacher-forced: every question carries its inputs, so what comes back is local and never
accumulated. Tensors are named in one safetensors file; the answer to question `q` has the names
`q.<name>` in another, and later questions may name it, too. `member` is the healthy member
(`backends.stages.healthy`) under which it is answered.

    kind         needs                gives
    own          seed                 text, negative_text, initial, image and clip (if any); the
                                      schedule
    start        seed                 initial, and clip (if any)
    varied       seed, steps          initial; sketches (K, 512) of the branches at each step k on it,
                                      their digests, and whether each is finite
    text         prompts              <i>.text for each prompt
    trajectory   seed, steps          <k>.in, <k>.velocity, <k>.branches for each step k; clean
    predict      seed, steps, source  <k>.velocity, <k>.branches on `<source>.<k>.in`
    solve        seed, steps, source  states (N, 512), final; from the first `<source>.<k>.in` on
                                      `<source>.<k>.velocity`
    decode       sources, crop        <i>.frames of the latents named by each source
    run          seed                 final latents of the whole staged run
    guide        seed, steps, sources <k>.velocity: guidance alone, on `<sources[0]>.<k>.in` and
                                      `<sources[1]>.<k>.branches`
    advance      seed, steps, source, <until>.in: the solver from step 0 on `<source>.0.in` to before
                 sources, until       step `until`, on `<sources[i]>.<steps[i]>.velocity` from
                                      `steps[i]` on
    in_use       seed, steps, crop    the weights as they are when used, in a short run of its own
                                      (`backends.stages.weights_in_use`): a fact, and no tensor
    native_scan  seed, steps, root    scan and again of the pipeline's own run at `steps[0]`, see below
    scan         root, and what the   inputs (M, 512), outputs (M, 512); names and moments of the M
                 component needs      modules of component `root` (`backends.stages.scan`)

A `native_scan` lets the pipeline's own loop run up to the end of step `steps[0]` and gives the scan of
component `root` in that step; then, as "again.<id>" and "repeat.<id>", the scans of the same step asked
by hand, on the latents that the loop had.

Predictions also give `<k>.native`, the guided clean sample, where the stack's solver consumes that, and
the guidance scale of each step. `image` names the latents of a conditioning image that replace the
pipeline's own. `crop` decodes only the first that many rows and columns of latents.

A `trajectory` visits the probe steps only: after each prediction it goes straight to the next one by
the deterministic DDIM rule on the pipeline's own schedule table, so its inputs lie where real ones do
and cost one guided call each. `clean` is the last predicted clean sample. `solve` drives all N solver
steps from given latents with given velocities (that of the nearest probe step), which
calls no transformer. `guide` and `advance` call none either: with `predict` and `decode` they are the
links of a run whose parts come from two pipelines.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal[
    "own", "start", "varied", "text", "trajectory", "predict", "solve", "decode", "scan", "native_scan",
    "run", "guide", "advance", "in_use",
]  # fmt: skip


@dataclass(frozen=True)
class Question:
    """One question; see the table above. Unused fields stay at their defaults."""

    id: str
    kind: Kind
    member: str = "plain"
    seed: int = 0
    steps: tuple[int, ...] = ()
    source: str = ""
    sources: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    crop: int | None = None
    root: str = ""
    image: str = ""
    until: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain types only."""
        return asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> Question:
        """Rebuild a question from `to_json` output that went through JSON."""
        lists: dict[str, Any] = {n: tuple(record[n]) for n in ("steps", "sources", "prompts")}
        return Question(**(record | lists))


def nearest(steps: tuple[int, ...], step: int) -> int:
    """The probe step whose velocity stands in for `step`."""
    return min(steps, key=lambda k: (abs(k - step), k))
