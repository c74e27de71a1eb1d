"""A fine-tuning round trip with learning rate 0, carried out in a worker: its record and verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from harness.errors import EXIT_DIFFERENT, EXIT_EQUIVALENT, EXIT_UNDECIDED, ParityError
from harness.records import Record
from harness.workers.client import RemoteError
from harness.workers.connect import Connector, in_own_process


class TensorChange(Record):
    """Tensors or settings that changed in one way, of how many; `kind` as in `backends.roundtrip`."""

    kind: str
    count: int
    of: int
    names: tuple[str, ...]
    detail: str


class FunctionChange(Record):
    """One guided transformer call on fixed inputs, before and after; `why` it was not computed."""

    computed: bool
    why: str | None
    bit_equal: bool | None = None
    rel_l2: float | None = None
    max_abs: float | None = None


class StepTaken(Record):
    """The optimiser step: how many parameters it was given, and how many had a gradient."""

    parameters: int
    with_gradient: int
    loss: float


class RoundTripResult(Record):
    """`weights` compares the folder before with the folder after, `stages` says where it happened.

    `undecided`: the folders hold the same, but the function could not be computed.
    """

    outcome: Literal["unchanged", "changed", "undecided"]
    backend: str
    mode: str
    model: str | None
    before: str
    after: str | None
    options: dict[str, Any]
    compared: int
    weights: tuple[TensorChange, ...]
    stages: dict[str, tuple[TensorChange, ...]]
    step: StepTaken | None
    function: FunctionChange

    @property
    def exit_code(self) -> int:
        """0 nothing changed, 1 something did, 3 the function is not known."""
        codes = {"unchanged": EXIT_EQUIVALENT, "changed": EXIT_DIFFERENT}
        return codes.get(self.outcome, EXIT_UNDECIDED)


def round_trip(
    request: Mapping[str, Any],
    python: str | None = None,
    timeout_s: float = 3600,
    connect: Connector = in_own_process,
) -> RoundTripResult:
    """Ask a worker; `request` holds the fields of `backends.roundtrip.check.RoundTrip`.

    `python` is its interpreter, this one by default; `timeout_s` in seconds; `connect` starts it.

    Raises `ParityError` for what the worker refuses, with its message.
    """
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        log = Path(folder) / "worker.log"
        with connect(python, None, log, [], None) as connection:
            try:
                result = connection.call("roundtrip", timeout_s, request=dict(request))
            except RemoteError as error:
                trace = f"\n{error.trace}" if error.trace else ""
                raise ParityError(f"{error}{trace}") from error
    return RoundTripResult.model_validate(result)
