"""The stage contract, and the plain messages that cross the process boundary.

A `Backend` opens a `Pipeline`. A pipeline offers the native run (the stack's own sampling loop with
the noise tape injected and every step observed) and the stages it is made of. Driving the stages by
hand reproduces the native run to the bit; `tests/contract` holds every backend to it. All tensors at
this seam have one layout, whatever the stack uses inside:

    latents   (B, T, C, H, W)   in the dtype the stack's solver keeps
    velocity  (B, T, C, H, W)   float32, the guided v-prediction
    text      (B, L, D)
    frames    (T, H, W, 3)      float32 in [0, 1], on the CPU

Importing this module costs nothing: torch is needed for type checking only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from backends.noise import NoiseTape

if TYPE_CHECKING:
    from torch import Tensor, nn

Sampler = Literal["ddim", "dpm"]
DTYPES = ("float32", "bfloat16", "float16")
"""The dtypes that every backend can be asked for."""

ALL_DTYPES = (*DTYPES, "float64")
"""Those that at least one backend has: float64 is Diffusers' alone."""


@dataclass(frozen=True)
class Case:
    """What to render. `model` is a micro model's name, a local folder, or a hub id.

    `image` is a picture file for image-to-video, `video` a clip for video-to-video, of whose noise
    schedule the last `strength` (0 to 1] is run; with neither it is text-to-video. Both may name an
    embedded file, `micro:NAME`. `height` and `width` are pixels, `fps` frames a second. `sampler` and
    `dynamic_guidance` are part of the case because every stack must be told them explicitly: their
    defaults differ.
    """

    name: str
    model: str
    prompt: str
    negative_prompt: str
    frames: int
    height: int
    width: int
    steps: int
    guidance_scale: float
    dynamic_guidance: bool
    sampler: Sampler
    fps: int
    image: str | None = None
    video: str | None = None
    strength: float = 0.8

    @property
    def solver_steps(self) -> int:
        """Steps that are run: all, or of video-to-video the last `strength` share, rounded down.

        As `get_timesteps` of `pipeline_cogvideox_video2video.py`.
        """
        if self.video is None:
            return self.steps
        return min(int(self.steps * self.strength), self.steps)


@dataclass(frozen=True)
class Variant:
    """How to render: a backend by registry name, its options, and an optional patch.

    `options` are the backend's own (dtype, placement, attention, ...), as its YAML lists them.
    `patch` names a function that a `--plugin` module registered; None leaves the pipeline alone.
    `patch_may_idle`: it may find nothing to change, as an option under which it acts was taken away.
    """

    name: str
    backend: str
    options: dict[str, Any] = field(default_factory=dict)
    patch: str | None = None
    patch_may_idle: bool = False


@dataclass(frozen=True)
class ScheduleTable:
    """The noise schedule of one run, step by step: what the solver uses, not how it was made.

    `timesteps` (N,) are the integers given to the transformer, first step first. `alpha_bar` (N,) is
    the cumulative signal power at each step and `alpha_bar_next` (N,) that at the step's target.
    They are lists of float64 that hold the stack's own values exactly (SAT's are float32). The target
    of step i is not always the start of step i+1: Diffusers steps by 1000 // N. `alpha_bar_clean` (N,)
    is the level that turns velocity into a clean sample, where that is not `alpha_bar`: SAT's denoiser
    rounds to the nearest of all 1000 levels while its solver does not. None: `alpha_bar` itself.
    """

    timesteps: list[int]
    alpha_bar: list[float]
    alpha_bar_next: list[float]
    alpha_bar_clean: list[float] | None = None


@dataclass(frozen=True)
class Inputs:
    """What the reference handed over; None leaves that factor to the backend's own policy.

    `text` and `negative_text` are (1, L, D). `schedule` replaces the stack's own table.
    `latent_dtype` is the dtype to which the latents are rounded after every solver step.
    `image_scale` multiplies the VAE's latents of the conditioning image.
    """

    text: Tensor | None = None
    negative_text: Tensor | None = None
    schedule: ScheduleTable | None = None
    latent_dtype: str | None = None
    image_scale: float | None = None


@dataclass(frozen=True)
class Policies:
    """What a stack does when left to itself, in words; equal words mean equal policy.

    `layer_norm_eps` is that of the transformer's last norm. `frames_to_uint8` is the stack's own
    exporter, which the harness does not use. `image_scale` multiplies the latents of a conditioning
    image; None for a model that takes none. `first_latent_frames` counts the pixel frames to which
    the video's first latent frame is decoded, of which the last is kept. Values are short phrases or
    numbers so that they can be compared and shown.
    """

    schedule: str
    unconditional: str
    latent_dtype: str
    guidance_target: str
    layer_norm_eps: float
    frames_to_uint8: str
    image_scale: float | None = None
    first_latent_frames: int = 1


@dataclass(frozen=True)
class Table:
    """A tensor that a stack computes: its dtype, shape and sketch (512, `backends.stages.sketch`)."""

    dtype: str
    shape: list[int]
    sketch: list[float]


NOT_FINITE = "not finite: "
"""What a digest begins with where the weight holds NaN or infinities."""


@dataclass(frozen=True)
class Identity:
    """Everything about an opened pipeline that must be equal exactly on both sides.

    `weights` maps canonical (Diffusers) tensor names, component first, to a digest over dtype, shape
    and bytes after canonical layout; `dtypes` maps a component to its parameter dtype(s); `configs`
    holds the settings that decide the mathematics, under canonical names (`vae.scaling_factor`,
    `scheduler.snr_shift_scale`, `vae.use_tiling`, ...). `tables` has those of `weights` that the stack
    computes and does not load, whose last bits another order of the same sum may change.
    """

    weights: dict[str, str]
    dtypes: dict[str, str]
    configs: dict[str, Any]
    tables: dict[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """One guided transformer call.

    `velocity` is canonical. `branches` (2, T, C, H, W) are the raw unconditional and conditional
    outputs, or (1, ...) without guidance. `native` is what the stack's own solver consumes when that
    is not `velocity` (SAT guides the predicted clean sample).
    """

    velocity: Tensor
    branches: Tensor
    guidance_scale: float
    native: Tensor | None = None


class StepObserver(Protocol):
    """Sees every solver step of a native or staged run, in order."""

    def __call__(
        self, step: int, timestep: int, latents: Tensor, prediction: Prediction, result: Tensor
    ) -> None:
        """`latents` went into step `step`, `result` came out; tensors must not be altered."""
        ...


class Run(Protocol):
    """One prepared render: the case with its inputs resolved, whose stages can be driven by hand."""

    @property
    def text(self) -> Tensor:
        """Conditional text embedding (1, L, D), shared or own."""
        ...

    @property
    def negative_text(self) -> Tensor:
        """Unconditional text embedding (1, L, D), shared or own."""
        ...

    @property
    def schedule(self) -> ScheduleTable:
        """The table that this run uses."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """Canonical shape of the latents."""
        ...

    def encode_image(self, tape: NoiseTape) -> Tensor | None:
        """Encode, scale and pad the case's image: (1, T, C, H, W) as the transformer takes it.

        Called before `initial_latents`; the run keeps this very tensor, so that writing into it gives
        the transformer another image. None for a model that takes none.
        """
        ...

    def encode_clip(self, tape: NoiseTape) -> Tensor | None:
        """Encode and scale the case's clip: (1, T, C, H, W) without noise. None without one."""
        ...

    def initial_latents(self, tape: NoiseTape) -> Tensor:
        """Draw and scale the initial latents. For video-to-video, noise the encoded clip."""
        ...

    def predict(self, latents: Tensor, step: int) -> Prediction:
        """Call the transformer once, guided, on `latents` at step `step`."""
        ...

    def step(self, latents: Tensor, prediction: Prediction, step: int, tape: NoiseTape) -> Tensor:
        """Advance the solver by one step. Multistep state is kept by the run; step 0 resets it."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode final latents to frames."""
        ...


class Pipeline(Protocol):
    """One opened model on one stack."""

    def identity(self) -> Identity: ...

    def policies(self) -> Policies: ...

    def modules(self) -> Mapping[str, nn.Module]:
        """Canonical (Diffusers) module names, component first, to this stack's modules."""
        ...

    def native(self) -> object:
        """The stack's own object, for patches."""
        ...

    def prepare(self, case: Case, inputs: Inputs) -> Run:
        """Resolve text, schedule and positions for `case`. Raises `InvalidRequest`, `Unsupported`."""
        ...

    def render(self, case: Case, inputs: Inputs, tape: NoiseTape, observe: StepObserver) -> Tensor:
        """Run the stack's own sampling loop as its users call it; return frames.

        The final latents are the `result` of the last observed step.
        """
        ...

    def close(self) -> None:
        """Release memory, hooks and process-wide state; the pipeline is unusable afterwards."""
        ...


@dataclass(frozen=True)
class Approximation:
    """An option that is meant to change what is computed: a quantisation, a cache, a tiling.

    `off` is the value at which it changes nothing. `across_steps`: what a step computes then depends on
    the steps before it, so that a stage asked alone is asked without it.
    """

    off: Any
    across_steps: bool = False


class Backend(Protocol):
    """One stack. Instances are made by the registry and hold no model.

    A backend may also offer `approximations(options) -> Mapping[str, Approximation]`: which of its
    options are meant to change the result, under `options`. Every other option (placement, kernel,
    compilation, loading) must change nothing, and so must all options of a backend without it.
    """

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise `InvalidRequest` for an unknown name or a value of another kind.

        Needs neither the stack nor torch: it is asked before a worker is started.
        """
        ...

    def makes(self, frames: int) -> bool:
        """Whether some model of this stack makes a video of exactly `frames` frames; as cheap."""
        ...

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InvalidRequest`, `Unsupported` or `MissingPrerequisite` if it cannot run here."""
        ...

    def open(self, model: str, options: Mapping[str, Any]) -> Pipeline:
        """Load `model` under `options`. Raises `CheckpointError` besides what `check` raises."""
        ...


@dataclass(frozen=True)
class TraceOptions:
    """How much of every render is kept. `probe_steps` keep full tensors; every step is sketched."""

    probe_steps: list[int]


@dataclass(frozen=True)
class RenderRequest:
    """One render, as sent to a worker. `inputs` is the file that a reference exported, or None.

    `member` is the healthy member (`backends.stages.healthy`) under which it is rendered.
    """

    case: Case
    seed: int
    inputs: str | None
    share: list[str]
    trace: TraceOptions
    folder: str
    member: str = "plain"

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> RenderRequest:
        """Rebuild a request from `asdict` output that went through JSON."""
        return RenderRequest(
            case=Case(**record["case"]),
            seed=record["seed"],
            inputs=record["inputs"],
            share=record["share"],
            trace=TraceOptions(**record["trace"]),
            folder=record["folder"],
            member=record["member"],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain types only."""
        return asdict(self)
