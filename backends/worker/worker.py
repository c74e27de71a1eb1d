"""The worker: a process that opens one pipeline at a time and answers requests about it.

Requests and answers are one JSON object a line, on standard input and on the original standard
output; whatever the stacks print goes to standard error. Tensors travel as files. It needs torch,
numpy, safetensors and the stack it serves, on Python 3.10 or later, so that a variant can run in an
environment of its own.

    {"op": "describe"}                                        -> environment, without importing torch
    {"op": "open", "variant": {...}, "model": m, ...}         -> identity, policies, seconds
    {"op": "export", "case": {...}, "path": p}                -> writes the inputs a pair shares
    {"op": "render", "request": {...}}                        -> writes frames and trace, a record
    {"op": "probe", "case": {...}, "questions": [...], ...}   -> writes answers, facts, guided calls
    {"op": "roundtrip", "request": {...}}                     -> fine-tunes with learning rate 0
    {"op": "reads"}                                           -> what this process read so far
    {"op": "close"}                                           -> releases the pipeline

An answer is {"ok": true, "result": ...} or {"ok": false, "outcome", "kind", "message", "trace"}.
`trace` is null for errors that a user can act on.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
import traceback
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from backends import registry
from backends.base import (
    Backend,
    Case,
    Inputs,
    Pipeline,
    Prediction,
    RenderRequest,
    ScheduleTable,
)
from backends.errors import BackendError, InvalidRequest
from backends.noise import NoiseTape
from backends.stages.questions import Question
from backends.worker import patches, reads
from backends.worker.environment import default_threads, describe, peak_memory_gib

if TYPE_CHECKING:
    from torch import Tensor

    from backends.stages.trace import TraceRecorder

SHAREABLE = ("text", "unconditional", "schedule", "latent_dtype", "image")


def _load_inputs(inputs: str | None, factors: list[str]) -> Inputs:
    """Read the `factors` to share from the file that the reference exported."""
    if inputs is None:
        if factors:
            raise InvalidRequest(f"asked to share {factors} without an inputs file")
        return Inputs()
    from safetensors.torch import load_file

    path = Path(inputs)
    tensors = load_file(str(path))
    meta = json.loads(path.with_suffix(".json").read_text())
    share = set(factors)
    if unknown := share - set(SHAREABLE):
        raise InvalidRequest(f"cannot share {sorted(unknown)}; known factors: {SHAREABLE}")
    return Inputs(
        text=tensors["text"] if "text" in share else None,
        negative_text=tensors["negative_text"] if "unconditional" in share else None,
        schedule=ScheduleTable(**meta["schedule"]) if "schedule" in share else None,
        latent_dtype=meta["latent_dtype"] if "latent_dtype" in share else None,
        image_scale=meta.get("image_scale") if "image" in share else None,
    )


def _import_operations() -> None:
    """Import what any request needs, so that what was read does not depend on what was asked before."""
    for name in (
        "backends.stages.answers", "backends.stages.trace", "numpy.random", "safetensors.torch",
    ):  # fmt: skip
        import_module(name)


class Worker:
    """Holds at most one open pipeline and carries out requests on it."""

    def __init__(self) -> None:
        self._pipeline: Pipeline | None = None

    def describe(self) -> dict[str, Any]:
        return describe()

    def open(
        self, variant: dict[str, Any], model: str, plugins: list[str], threads: int | None
    ) -> dict[str, Any]:
        import torch

        _import_operations()
        self.close()
        torch.set_num_threads(threads or default_threads())
        if variant["patch"] is not None:
            patches.load_providing(variant["patch"], plugins)
        backend: Backend = registry.load(variant["backend"])
        started = time.perf_counter()
        backend.check(variant["options"])
        pipeline = backend.open(model, variant["options"])
        if variant["patch"] is not None:
            pipeline = patches.apply(variant["patch"], pipeline, may_idle=variant["patch_may_idle"])
        opened_s = time.perf_counter() - started
        self._pipeline = pipeline
        return {
            "identity": asdict(pipeline.identity()),
            "policies": asdict(pipeline.policies()),
            "open_s": opened_s,
            "threads": torch.get_num_threads(),
        }

    def _opened(self) -> Pipeline:
        if self._pipeline is None:
            raise InvalidRequest("no pipeline is open; send `open` first")
        return self._pipeline

    def export(self, case: dict[str, Any], path: str) -> dict[str, Any]:
        """Write what the open pipeline itself would use for `case`, for others to share."""
        from safetensors.torch import save_file

        pipeline = self._opened()
        run = pipeline.prepare(Case(**case), Inputs())
        policies = pipeline.policies()
        meta = {
            "schedule": asdict(run.schedule),
            "latent_dtype": policies.latent_dtype,
            "image_scale": policies.image_scale,
        }
        target = self._handing(path)
        tensors = {"text": run.text, "negative_text": run.negative_text}
        # Both may be views of one buffer, which safetensors refuses to write.
        apart = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        save_file(apart, str(target))
        target.with_suffix(".json").write_text(json.dumps(meta))
        return meta

    def render(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run the stack's own loop; write `frames.safetensors`, `trace.safetensors`, and what the
        components were given as `arguments.json` and `arguments.safetensors`."""
        import torch
        from safetensors.torch import save_file

        from backends.checkpoints.tensors import digest
        from backends.stages.arguments import NativeArguments, watching
        from backends.stages.healthy import healthy
        from backends.stages.trace import TraceRecorder

        pipeline = self._opened()
        asked = RenderRequest.from_json(request)
        tape, recorder = NoiseTape(asked.seed), TraceRecorder(asked.trace)
        if asked.inputs is not None:
            self._handing(asked.inputs)
        inputs, arguments = _load_inputs(asked.inputs, asked.share), NativeArguments()
        started = time.perf_counter()
        with torch.no_grad(), healthy(pipeline, asked.member), watching(pipeline) as calls:

            def observe(
                step: int, timestep: int, latents: Tensor, prediction: Prediction, result: Tensor
            ) -> None:
                arguments.take(calls, str(step), latents)
                recorder(step, timestep, latents, prediction, result)

            frames = pipeline.render(asked.case, inputs, tape, observe)
            arguments.take(calls, "end")
        render_s = time.perf_counter() - started
        folder = self._handing(f"{asked.folder}/frames").parent
        save_file({"frames": frames.contiguous()}, str(folder / "frames.safetensors"))
        steps = recorder.save(folder / "trace.safetensors")
        arguments.save(folder)
        return {
            "frames_digest": digest(frames),
            "latents_digest": digest(_final(recorder)),
            "tape_digest": tape.digest,
            "draws": [asdict(draw) for draw in tape.draws],
            "steps": steps,
            "render_s": render_s,
            "peak_gib": peak_memory_gib(),
        }

    def probe(
        self,
        case: dict[str, Any],
        questions: list[dict[str, Any]],
        given: str | None,
        inputs: str | None,
        share: list[str],
        latent_dtype: str | None,
        path: str,
    ) -> dict[str, Any]:
        """Answer teacher-forced questions on the tensors in `given`; write the answers to `path`."""
        from safetensors.torch import load_file, save_file

        from backends.stages.answers import answer

        for handed in (given, inputs, path):
            if handed is not None:
                self._handing(handed)
        shared = _load_inputs(inputs, share)
        if latent_dtype is not None:
            shared = replace(shared, latent_dtype=latent_dtype)
        answers = answer(
            self._opened(),
            Case(**case),
            shared,
            [Question.from_json(question) for question in questions],
            {} if given is None else load_file(given),
        )
        save_file(answers.tensors, path)
        return {"facts": answers.facts, "guided_calls": answers.guided_calls}

    def roundtrip(self, request: dict[str, Any]) -> dict[str, Any]:
        """Fine-tune with learning rate 0, or compare two folders; `backends.roundtrip` says how."""
        from backends.roundtrip.check import RoundTrip, check

        self.close()
        return check(RoundTrip(**request))

    def reads(self) -> dict[str, Any]:
        """What this process read so far, but for what came with a request."""
        return reads.report()

    def _handing(self, path: str) -> Path:
        """The path of a file that the harness hands over or asks for, in a folder of its own."""
        reads.hand(path)
        return Path(path)

    def close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
            gc.collect()


def _final(recorder: TraceRecorder) -> Any:
    if recorder.final_latents is None:
        raise InvalidRequest("the pipeline finished without reporting a single step")
    return recorder.final_latents


OPERATIONS = ("describe", "open", "export", "render", "probe", "roundtrip", "reads", "close")


def carry_out(worker: Worker, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request; whatever goes wrong becomes an answer."""
    try:
        if operation not in OPERATIONS:
            raise InvalidRequest(f"unknown operation {operation!r}; known: {OPERATIONS}")
        with reads.listening():
            return {"ok": True, "result": getattr(worker, operation)(**arguments)}
    except BackendError as error:
        kind, trace = type(error).__name__, None
        outcome, message = error.outcome, str(error)
    except Exception as error:  # a crash inside a stack is a record, not the end of a sweep
        kind, trace = type(error).__name__, traceback.format_exc()
        outcome, message = "error", f"{kind}: {error}"
    return {"ok": False, "outcome": outcome, "kind": kind, "message": message, "trace": trace}


def _own_stdout() -> TextIO:
    """Keep standard output for answers: what the stacks print to it goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def main() -> None:
    """Answer requests until standard input ends."""
    answers = _own_stdout()
    worker = Worker()
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            request = json.loads(line)
            operation = request.pop("op")
            answers.write(json.dumps(carry_out(worker, operation, request)) + "\n")
            answers.flush()
    worker.close()


if __name__ == "__main__":
    main()
