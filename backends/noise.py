"""The noise tape: the one source of initial latents and of every sampler draw, for every backend.

Equal seeds do not give equal noise on two stacks: they draw from different generators, in different
dtypes, at different times. The tape replaces them all. A draw is a pure function of
(seed, stage, step, index, element): Philox4x64-10 with key (seed, slot) gives 64 random bits an
element, and Wichura's AS 241 (PPND16, Applied Statistics 37, 1988) turns them into a standard normal.
Only IEEE-754 operations that are correctly rounded (+ - * / sqrt) are used, its logarithm included,
so the same bits come out on every machine, numpy and torch version, and thread count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backends.errors import TapeError

Stage = Literal["initial", "step", "image"]

_STAGE_CODES: dict[Stage, int] = {"initial": 0, "step": 1, "image": 2}

_CENTRAL_NUM = (
    3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
    1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
    3.3430575583588128105e4, 2.5090809287301226727e3,
)  # fmt: skip
_CENTRAL_DEN = (
    1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
    2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
    5.2264952788528545610e3,
)  # fmt: skip
_MIDDLE_NUM = (
    1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
    3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
    2.27238449892691845833e-2, 7.74545014278341407640e-4,
)  # fmt: skip
_MIDDLE_DEN = (
    1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
    1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
    1.05075007164441684324e-9,
)  # fmt: skip
_TAIL_NUM = (
    6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0,
    2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
    2.71155556874348757815e-5, 2.01033439929228813265e-7,
)  # fmt: skip
_TAIL_DEN = (
    1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
    7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
    2.04426310338993978564e-15,
)  # fmt: skip

Doubles = NDArray[np.float64]


def _horner(coefficients: Sequence[float], x: Doubles) -> Doubles:
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _log(x: Doubles) -> Doubles:
    """Natural logarithm of positive x by log m = 2 artanh((m-1)/(m+1)); no libm, hence portable."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    exponent = exponent - low
    s = (mantissa - 1.0) / (mantissa + 1.0)
    series = _horner([1.0 / (2 * k + 1) for k in range(13)], s * s)
    return exponent * 0.6931471805599453 + 2.0 * s * series


def _normal_quantile(p: Doubles) -> Doubles:
    """Standard normal quantile of p in (0, 1), relative accuracy about 1e-16 (AS 241)."""
    q = p - 0.5
    r = 0.180625 - q * q
    out = q * _horner(_CENTRAL_NUM, r) / _horner(_CENTRAL_DEN, r)
    outer = np.abs(q) > 0.425
    if outer.any():
        q_outer = q[outer]
        root = np.sqrt(-_log(np.where(q_outer < 0, p[outer], 1.0 - p[outer])))
        near, far = root - 1.6, root - 5.0
        tail = np.where(
            root <= 5.0,
            _horner(_MIDDLE_NUM, near) / _horner(_MIDDLE_DEN, near),
            _horner(_TAIL_NUM, far) / _horner(_TAIL_DEN, far),
        )
        out[outer] = np.where(q_outer < 0, -tail, tail)
    return out


def standard_normal(seed: int, slot: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """Standard normal float32 array of `shape`, a pure function of (seed, slot), both in 0..2^64-1.

    Element i takes the i-th 64-bit word of Philox4x64-10 with key (seed, slot); its upper 52 bits k
    give p = (k + 1/2) / 2^52, which float64 holds exactly and which is never 0 or 1.
    """
    generator = np.random.Philox(key=np.array([seed, slot], dtype=np.uint64))
    count = int(np.prod(np.asarray(shape, dtype=np.int64)))
    words = generator.random_raw(count) >> np.uint64(12)
    p = (words.astype(np.float64) + 0.5) * 2.0**-52
    return _normal_quantile(p).astype(np.float32).reshape(tuple(shape))


def draw_slot(stage: Stage, step: int, index: int) -> int:
    """The slot of draw `index` in `step` of `stage`, the second half of its Philox key."""
    return (_STAGE_CODES[stage] << 48) | (step << 16) | index


@dataclass(frozen=True)
class Draw:
    """One draw that was taken: where, in which shape, and the hash of its float32 bytes.

    `optional` marks a draw beyond the fewest that every stack makes there; its value cannot matter.
    `generator` is the one that the stack asked for it, `passed` or `global`; None where the adapter
    drew in its stead.
    """

    stage: Stage
    step: int
    index: int
    shape: tuple[int, ...]
    sha256: str
    optional: bool
    generator: str | None = None


def expected_step_draws(sampler: str, step: int, steps: int) -> tuple[int, int]:
    """Fewest and most draws that a stack makes in solver step `step` of `steps`.

    `ddim` (eta 0) draws nothing. `dpm` (SDE-DPM-Solver++ 2M) draws once in its first-order first
    step and twice after that, the first of the two being discarded, in both code bases; in the last
    step, where the noise is multiplied by zero, SAT draws nothing and Diffusers once.
    """
    if sampler == "ddim":
        return 0, 0
    if step == steps - 1:
        return 0, 1
    return (1, 1) if step == 0 else (2, 2)


class NoiseTape:
    """Serves one render's draws in order and refuses any that are not expected.

    Draws happen inside `with tape.stage(...)`, which says how many are due and in which shape; every
    draw is float32 and its caller casts it as its stack would. `digest` identifies what was served,
    optional draws aside, so it is equal for all stacks that used the same noise. Raises `TapeError`
    on a draw outside a stage, too many, too few, or in another shape.
    """

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < 2**63:
            raise TapeError(
                f"seed {seed}: expected an integer from 0 to 2^63-1; choose another seed"
            )
        self.seed = seed
        self.draws: list[Draw] = []
        self._open: tuple[Stage, int, int, int, tuple[int, ...] | None] | None = None
        self._served = 0

    @contextmanager
    def stage(
        self, stage: Stage, step: int, fewest: int, most: int, shape: Sequence[int] | None
    ) -> Generator[None]:
        """Allow `fewest` to `most` draws of `shape` (canonical layout; None: any) until the end."""
        if self._open is not None:
            raise TapeError(f"stage {stage} {step} opened inside stage {self._open[:2]}")
        self._open = (stage, step, fewest, most, None if shape is None else tuple(shape))
        self._served = 0
        try:
            yield
        finally:
            self._open = None
        if self._served < fewest:
            raise TapeError(
                f"{stage} {step}: the stack drew noise {self._served} times, expected at least"
                f" {fewest}; its sampler skips a draw, so its random stream is shifted"
            )

    def draw(self, shape: Sequence[int], generator: str | None = None) -> NDArray[np.float32]:
        """Return the next draw of the open stage as float32 of `shape`; `generator` as in `Draw`."""
        came = tuple(int(n) for n in shape)
        if self._open is None:
            raise TapeError(
                f"unexpected draw of shape {came} outside any sampling stage; the stack draws noise"
                " where no sampler should, so its result is not a function of the seed alone"
            )
        stage, step, fewest, most, expected = self._open
        if self._served >= most:
            raise TapeError(
                f"unexpected draw of shape {came} in {stage} {step}: expected at most {most};"
                " the stack's sampler makes one draw too many"
            )
        if expected is not None and came != expected:
            raise TapeError(f"draw in {stage} {step} has shape {came}, expected {expected}")
        slot = draw_slot(stage, step, self._served)
        values = standard_normal(self.seed, slot, came)
        sha256 = hashlib.sha256(values.tobytes()).hexdigest()
        optional = self._served >= fewest
        self.draws.append(Draw(stage, step, self._served, came, sha256, optional, generator))
        self._served += 1
        return values

    @property
    def digest(self) -> str:
        """SHA-256 over every draw so far that is not optional: its place, shape and bytes."""
        due = (d for d in self.draws if not d.optional)
        lines = (f"{d.stage} {d.step} {d.index} {d.shape} {d.sha256}\n" for d in due)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
