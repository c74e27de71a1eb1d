"""The records that every room shares and the store keeps: the product's data format.

Each is a frozen pydantic model and is written as JSON in which infinities and NaN survive (as the
strings "Infinity", "-Infinity", "NaN"). A reader that meets a field it does not know says so.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Status = Literal["ok", "unsupported", "error", "not_run"]
VerdictName = Literal[
    "bit_exact", "rounding", "chaotic", "policy", "approximation", "bug", "broken", "inconclusive",
    "unsupported", "error", "not_run",
]  # fmt: skip
NOT_EQUIVALENT: frozenset[VerdictName] = frozenset({"bug", "broken"})
EQUIVALENT: frozenset[VerdictName] = frozenset(
    {"bit_exact", "rounding", "chaotic", "policy", "approximation"}
)

SCHEMA_VERSION = 2


class Record(BaseModel):
    """Frozen, strict about unknown fields, and lossless for non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Frames(Record):
    """Decoded video: hash of the uint8 bytes and shape, hash of the float frames, and (T, H, W).

    `non_finite` counts the float values that were NaN or infinite before quantisation.
    """

    sha256: str
    float_digest: str
    non_finite: int
    frames: int
    height: int
    width: int


class Step(Record):
    """One solver step; see `backends.stages.trace.StepRecord`."""

    step: int
    timestep: int
    guidance_scale: float
    velocity_digest: str
    latents_digest: str
    velocity_finite: bool
    latents_finite: bool


class TableRecord(Record):
    """A tensor that a stack computes: its dtype, shape, and sketch (512 values)."""

    dtype: str
    shape: list[int]
    sketch: list[float]


class PipelineRecord(Record):
    """An opened pipeline: what must be equal exactly, and what its stack does by policy.

    `tables` are those of the weights that the stack computes.
    """

    weights: dict[str, str]
    dtypes: dict[str, str]
    configs: dict[str, Any]
    tables: dict[str, TableRecord] = {}
    policies: dict[str, str | float | None]


class RenderRecord(Record):
    """One render: case x variant x seed, carried out or not, with its provenance.

    `key` addresses it in the store; `member` is the healthy member that it was rendered as. `case`
    and `variant` are what was asked, `share` the factors taken from the reference and `inputs_key`
    where they lie; `own_inputs_key` is where the variant's own lie, taken or not. `trace` is a stack's
    traceback if it crashed. `generators` are those that its draws were asked of, by stage (`initial`,
    `image`, `step`), where the stack asked and not the adapter. `status` other than `ok` has a
    `message` and no frames. `pipeline_key` addresses the `PipelineRecord`. Times are seconds, memory
    GiB.
    """

    schema_version: int = SCHEMA_VERSION
    key: str
    case: dict[str, Any]
    variant: dict[str, Any]
    seed: int
    repeat: int
    share: list[str]
    inputs_key: str | None
    member: str = "plain"
    status: Status
    message: str | None = None
    trace: str | None = None
    own_inputs_key: str | None = None
    frames: Frames | None = None
    latents_digest: str | None = None
    tape_digest: str | None = None
    generators: dict[str, list[str]] = {}
    steps: list[Step] = []
    guided_calls: int = 0
    open_s: float | None = None
    render_s: float | None = None
    peak_gib: dict[str, float] = {}
    environment: dict[str, str] = {}
    pipeline_key: str | None = None
    created: str


Component = Literal[
    "text", "image_encoder", "schedule", "noise", "transformer", "guidance", "solver", "decoder",
    "loop", "frames",
]  # fmt: skip
"""The parts of a pipeline that a finding can name. `loop` is the stack's own sampling loop around the
stages, `frames` what happens to the video after decoding."""

Outcome = Literal["agrees", "differs", "noted", "unscored"]


DECLARED = "declared:"
"""Begins the `known` id of a difference that the user set; both sides ran with it."""


class Finding(Record):
    """One named cause. `known` is the id of a registered deliberate difference, if it is one.

    `kind` is where it was seen: `policy`, `approximation`, `weights`, `config`, `dtype`, `schedule`,
    `noise`, `text`, `lora`, `hazard`, or `component` for a named cause. `detail` is one sentence for a
    person, with both values.
    `component` is the part it belongs to, `block` the canonical module name where that is known,
    `share` its share of the squared gap (negative: it cancels another), `remedy` what to do next.
    """

    kind: str
    name: str
    detail: str
    reference: Any = None
    candidate: Any = None
    known: str | None = None
    component: Component | None = None
    block: str | None = None
    share: float | None = None
    remedy: str | None = None

    @property
    def declared(self) -> bool:
        """Whether the user set this difference, so that the reference was given it, too."""
        return (self.known or "").startswith(DECLARED)


class Evidence(Record):
    """One check in the chain that led to a verdict: audits first, then stage by stage.

    `stage` is the stage of the procedure: `exact`, `collapse`, `oracle`, `native`, `order`, `free`,
    `statistics`. `value` is what was measured and `limit` the bound that it was held against, both in
    `unit`; `healthy` are the values of the healthy members, the noise band. `higher_is_worse` gives
    the direction. `step` and `seed` say where the worst value lies. `setting` is the one that is wrong,
    where the check can tell. An `unscored` check could not be
    made; `detail` says why, and it is never a pass.
    """

    stage: str
    check: str
    component: Component | None = None
    outcome: Outcome
    detail: str
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    healthy: list[float] = []
    higher_is_worse: bool = True
    step: int | None = None
    seed: int | None = None
    setting: str | None = None


class Coverage(Record):
    """How much of one kind of thing that the two sides have was compared.

    `kind` is a plural noun (`weights`, `arguments`, `components`, `settings`, `seeds`). `compared` of
    `total` were held against each other; `missing` names the others, each with the reason. A verdict in
    whose coverage something is missing is no pass.
    """

    kind: str
    compared: int
    total: int
    missing: list[str] = []


class BlockDistance(Record):
    """One module of the teacher-forced scan: relative L2 of its output, and its healthy limit."""

    module: str
    step: int
    value: float | None
    limit: float | None


class Share(Record):
    """A component's Shapley share of the squared gap, with its interval over seeds (95 %)."""

    component: Component
    share: float
    low: float
    high: float


class SeedDistances(Record):
    """Candidate against reference for one seed.

    `latents_rel_l2` is |x_B - x_A| / |x_A| of the final latents; `per_step_rel_l2` the same after
    every step, estimated from sketches (within about 6 %). `first_step` is the first step whose
    result differs in any bit. `frames_equal` compares the float frames.
    """

    seed: int
    latents_rel_l2: float | None
    per_step_rel_l2: list[float]
    first_step: int | None
    frames_equal: bool
    latents_equal: bool


class Effect(Record):
    """What the options and settings that a candidate declares do by themselves.

    The reference under them, with which the candidate was compared, against the reference as configured
    (`plain`). `share` is the worst frame's or quarter of a frame's root mean square difference over that
    of two unrelated videos of the same contrast, sqrt(2) standard deviations of the plain frame; None
    where the two videos have different shapes. `quality` says in words what a person would see.
    """

    plain: str
    declared: list[str]
    distances: list[SeedDistances]
    share: float | None
    quality: list[str]


class PairResult(Record):
    """The verdict on one candidate against the reference for one case, over its seeds.

    `scores` maps metric name to one `harness.metrics` result per seed, in the order of `seeds`;
    `floor_scores` and `floor` are the same for the reference rendered again in a fresh process.
    `renders` maps "reference", "candidate" and "rerun" to render keys by seed. `cost_guided_calls`
    counts guided transformer calls spent on both sides, of which `cost_locating_calls` went into
    finding the place of a difference that was already seen. `share` are the factors that the candidate
    took from the reference. `ensemble` and `ensemble_scores` are distances and scores of the healthy
    members by member, the noise band; `quality` says in words what a person would see. `summary` is
    the verdict in one paragraph to paste into an issue, `evidence` the chain of checks behind it,
    `shares` and `blocks` where the gap lies (empty where that was not asked or nothing differs),
    `coverage` how much was compared, and `effect` what the candidate's declared options do by
    themselves. `reference` is the reference under these options, as its `renders` are.
    """

    case: str
    model: str
    reference: str
    candidate: str
    verdict: VerdictName
    reasons: list[str]
    findings: list[Finding]
    share: list[str]
    seeds: list[int]
    distances: list[SeedDistances]
    floor: list[SeedDistances]
    scores: dict[str, list[dict[str, Any]]]
    floor_scores: dict[str, list[dict[str, Any]]]
    renders: dict[str, dict[int, str]]
    cost_guided_calls: int
    cost_locating_calls: int = 0
    ensemble: dict[str, list[SeedDistances]] = {}
    ensemble_scores: dict[str, dict[str, list[dict[str, Any]]]] = {}
    quality: list[str] = []
    summary: str = ""
    evidence: list[Evidence] = []
    coverage: list[Coverage] = []
    effect: Effect | None = None
    shares: list[Share] = []
    blocks: list[BlockDistance] = []


class RunResult(Record):
    """`verdict.json`: every pair of one run, and how it came about.

    `commit` is the commit of the working directory that the run was started in, if it has one.
    `hazards` are settings that were named before anything was rendered (`harness.audit.hazards`).
    """

    schema_version: int = SCHEMA_VERSION
    run: str
    created: str
    command: list[str]
    config: dict[str, Any]
    pairs: list[PairResult]
    exit_code: int
    commit: str | None = None
    hazards: list[Finding] = []
