"""Kind M: whatever is wrong in what a user types ends in one message, exit code 2, and nothing else.

The wrong values are generated: for every key of the composed configuration those of other types and
beyond its range, and besides misspelt names, damaged files, and streams and variables of the shell.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.config.compose import compose_tree
from harness.config.folders import conf_folders
from harness.render.memory import least_gib, machine_gib
from harness.verdict import session

CASE = "cases.micro_2b_quick"
LIMIT_S = 5.0

# By the type of the value that a key has: values that are of another type, as a user might write them.
OTHER_TYPES = {
    bool: ["1", "perhaps", "[true]"],
    int: ["true", "many", "[1]", "nan"],
    float: ["true", "many", "inf"],
    str: ["5", "true", "[a]"],
    list: ["{a:1}", "true"],
    dict: ["3", "word"],
}
OUT_OF_RANGE = {
    "seeds": ["[-1]", "[1.0]", "['0']", "[18446744073709551616]", "[9223372036854775808]", "[true]",
              "[nan]", "[null]", "[[0]]", "[0,0]", "true", "-5"],
    "timeout_s": ["0", "-1", "1e308", "1e9"],
    "store": ["null"],
    "judge.probe_seeds": ["[0]", "[]", "[0,-1]", "[0,true]"],
    "judge.calibration_seeds": ["[]", "[-1]"],
    "judge.max_seeds": ["0", "-3", "100000"],
    f"{CASE}.frames": ["0", "-9", "1", "2", "8", "10", "10000001", "100000000000000000000", "9.0"],
    f"{CASE}.height": ["0", "-64", "65", "16000000"],
    f"{CASE}.width": ["0", "-64", "8", "1000000000000"],
    f"{CASE}.steps": ["0", "-1", "1001", "8.0"],
    f"{CASE}.fps": ["0", "-8", "2147483648", "1001"],
    f"{CASE}.guidance_scale": ["0", "0.5", "-6", "1e308", "1000.5"],
    f"{CASE}.sampler": ["euler", "DDIM", "''"],
    f"{CASE}.prompt": ["''", "'   '", "'" + "a" * 20_000 + "'"],
    f"{CASE}.image": ["nowhere.png", "micro:nothing.png"],
    f"{CASE}.model": ["''" , "'" + "m" * 20_000 + "'"],
    "reference.threads": ["0", "-1", "100000", "1.5", "true"],
    "reference.python": ["/nowhere/python", "nowhere", "''"],
    "reference.patch": ["nowhere"],
    "reference.lora_scale": ["2.0"],
    "reference.device": ["gpu", "cuda0", "CUDA", "tpu", "'cpu '"],
    "reference.dtype": ["bf16", "half", "int8", "torch.float32", "null"],
    "reference.vae_dtype": ["fp16", "float8"],
    "reference.attention": ["sdpa", "flash2", "null"],
    "reference.placement": ["gpu", "group", "null"],
    "reference.cache": ["teacache"],
    "reference.quantization": ["int4"],
    "reference.layerwise_casting": ["float8"],
    "reference.lora_mode": ["merged"],
    "reference.backend": ["sta", "null", "5", "[sat]", "''"],
    "candidates.sat.first_frame": ["double"],
    "candidates.sat.inference_config": ["x.yaml"],
    "match.text": ["mine", "null", "SHARED"],
    "match.noise": ["own"],
    "metrics.psnr.tile_px": ["0", "-1", "1e3", "nan"],
}  # fmt: skip
WRONG_LINES = [
    # names
    ["case=[nowhere]"], ["candidate=[nowhere]"], ["reference=nowhere"], ["match=nowhere"],
    ["metrics=[nowhere]"], ["judge=nowhere"], ["trace=nowhere"], ["experiment=nowhere"],
    ["hydra/launcher=nowhere", "-m"], ["backend=diffusers"], ["nowhere=1"], ["+nowhere=1"],
    [f"+{CASE}.nowhere=1"], ["+reference.nowhere=1"], ["+candidates.sat.nowhere=1"], ["~seeds"],
    ["~store"], ["~reference"], ["~judge"], ["~match"], ["+judge.nowhere=1"], ["+trace.nowhere=1"],
    ["+match.pictures=own"], ["+candidates.sat.match={texts:own}"],
    ["candidates.sat.match={schedule:mine}"], ["+metrics.psnr.nowhere=1"], ["+metrics.nowhere.x=1"],
    ["reference.name=sat"], ["reference.name=''"], ["reference.name='a/b'"], ["reference.name=5"],
    ["reference.name=../x"], ["+candidates.sat.case={model:micro-5b}"], ["+candidates.sat.case=5"],
    ["+candidates.sat.case={steps:true}"], ["+candidates.sat.case={frames:10}"],
    ["+cases.mine={model:micro-2b}"], ["+cases.mine=5"], ["+candidates.mine={}"],
    ["+candidates.mine=diffusers"], [f"+{CASE}.strength=0"], [f"+{CASE}.strength=nan"],
    [f"+{CASE}.strength=true"], [f"+{CASE}.strength=2"], [f"+{CASE}.video=nowhere.mp4"],
    # the grammar of settings
    ["seeds"], ["seeds="], ["=1"], ["seeds=[0"], ["seeds=0]"], ["seeds={"], ["'"], ['"'], ["seeds=${x}"],
    ["seeds=${oc.env:PARITY_NOWHERE}"], ["seeds=${nowhere:1}"], ["case=micro_2b,micro_5b"],
    ["seeds=[" + "[" * 300 + "]" * 300 + "]"], ["--nowhere"], ["--plugin"], ["--config-dir"],
    ["-m", "seeds=range(0,3)", f"{CASE}.steps=1,true"], ["-m", f"{CASE}.fps=8,0"], ["seeds=1,2"],
    ["-m", "hydra/launcher=parallel", "hydra.launcher.n_jobs=0"],
    ["-m", "hydra/launcher=parallel", "hydra.launcher.n_jobs=many"],
    ["hydra.callbacks={a:{_target_:os.system}}"], ["hydra/job_logging=default"],
    # plugins and folders
    ["--plugin", "../x"], ["--plugin", "x/y"], ["--plugin", "nowhere"], ["--plugin", "x.py"],
    ["--plugin", ""], ["--plugin", "."], ["--plugin", "a..b"], ["--plugin", "nowhere.inside"],
    ["--config-dir", "nowhere"], ["--config-dir", "\x00"], ["--config-dir", "/dev/null"],
    # text that is none
    [f"{CASE}.prompt=a\x00b"], [f"{CASE}.prompt='a\ud800b'"], [f"{CASE}.prompt='a\x1bb'"],
    [f"{CASE}.negative_prompt='\udcff'"], ["reference.checkpoint='a\x00b'"], ["store='a\x00b'"],
]  # fmt: skip
WRONG_VERBS: list[list[str]] = [
    [], ["nowhere"], ["rnu"], ["run", "--store"], ["ls", "--store", "nowhere"], ["ls", "--nowhere"],
    ["verify", "--store", "nowhere"], ["gc", "--store", "nowhere"], ["report", "nowhere"],
    ["convert"], ["convert", "nowhere", "there"], ["audit", "nowhere", "there"], ["audit", "x"],
    ["export", "--store", "nowhere"], ["bisect", "case=[nowhere]"], ["probe", "seeds=[true]"],
    ["judge", f"{CASE}.steps=true"], ["score", "metrics=[nowhere]"], ["render", "candidate=[x]"],
    ["selftest", "--nowhere"], ["roundtrip", "nowhere"], ["doctor", "--nowhere"],
]  # fmt: skip


def _leaves(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), value)


def generated() -> list[list[str]]:
    """Every key of the configuration with values that are of another type, and the rest."""
    lines: list[list[str]] = []
    for path, value in _leaves("", compose_tree([], conf_folders(None))):
        for kind, wrong in OTHER_TYPES.items():
            if path and type(value) is kind:
                lines += [["run", f"{path}={text}"] for text in wrong]
    lines += [["run", f"{key}={text}"] for key, texts in OUT_OF_RANGE.items() for text in texts]
    return [*lines, *(["run", *line] for line in WRONG_LINES), *WRONG_VERBS]


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(session, "run", refuse)
    monkeypatch.chdir(tmp_path)


def _left() -> list[str]:
    return [path.name for path in Path().iterdir()]


def _problem(code: int, said: str, took: float, left: list[str]) -> str | None:
    """What is wrong with how a wrong input ended."""
    if code != 2:
        return f"exit code {code}"
    if "Traceback" in said or "defect of parity" in said:
        return "a defect"
    if took > LIMIT_S:
        return f"{took:.1f} s"
    if left:
        return f"left {left}"
    messages = [line for line in said.splitlines() if line.startswith(("parity: ", "parity "))]
    errors = [line for line in messages if not line.startswith("parity: warning")]
    return None if len(errors) == 1 or "usage:" in said else f"{len(errors)} messages"


def test_at_least_300_wrong_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    lines = generated()
    assert len({tuple(line) for line in lines}) >= 300
    wrong: list[str] = []
    for line in lines:
        started = time.process_time()
        code = main(line)
        took = time.process_time() - started
        shown = capsys.readouterr()
        problem = _problem(code, shown.err + shown.out, took, _left())
        if problem is not None:
            short = " ".join(line)[:90]
            wrong.append(f"{short!r}: {problem}: {shown.err[:200]!r}")
    assert not wrong, f"{len(wrong)} of {len(lines)}:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff\xfe", b"\x89PNG\r\n", b"- a\n- b\n", b"model: [x\n", b"just words\n",
     b"# @package cases.mine\n", b"# @package cases.mine\nmodel: 5\n", b"a: &a [*a]\n",
     b"# @package cases.mine\n? {a: 1}\n: 2\n", b"!!python/object/apply:os.system ['touch x']\n",
     b"defaults:\n  - nowhere: x\n"],
)  # fmt: skip
def test_a_file_of_the_users_that_is_none(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path.parent / f"{tmp_path.name}-conf" / "case"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_bytes(content)
    started = time.process_time()
    code = main(["run", "--config-dir", str(conf.parent), "case=[mine]"])
    took = time.process_time() - started
    said = capsys.readouterr().err
    assert _problem(code, said, took, _left()) is None, said


def test_the_memory_of_the_frames_is_named_before_anything_is_computed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", f"{CASE}.frames=10000001"]) == 2
    said = capsys.readouterr().err
    gib = 2 * 10_000_001 * 64 * 64 * 3 * 4 / 2**30
    assert f"{gib:.0f} GiB as decoded" in said
    assert f"{machine_gib():.0f} GiB" in said
    from backends.base import Case

    case = Case("c", "m", "p", "", 49, 480, 720, 50, 6.0, False, "ddim", 8)
    assert math.isclose(least_gib(case), 0.378, rel_tol=0.01)


@pytest.mark.parametrize(
    ("candidate", "frames", "message"),
    [
        ("sat", 8, "sat cannot make a video of 8 frames. Nearest that every backend of this run"
         " makes: 9"),
        ("sat", 13, "diffusers and sat cannot make a video of 13 frames"),
        ("diffusers_model_offload", 5, "makes: 8"),
        ("diffusers_model_offload", 12, "makes: 9 or 16"),
    ],
)  # fmt: skip
def test_frame_counts_are_those_of_the_backends_asked(
    candidate: str, frames: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", f"candidate=[{candidate}]", f"{CASE}.frames={frames}"]) == 2
    assert message in capsys.readouterr().err


def test_a_device_that_is_called_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    for variant in ("reference", "candidates.sat"):
        assert main(["run", f"{variant}.device=gpu"]) == 2
        assert "did you mean 'cuda'?" in capsys.readouterr().err


# --- as a process, with a shell's own ways to go wrong


@pytest.mark.parametrize(
    ("line", "variables", "message"),
    [
        ("ls >&-", {}, "standard output is closed"),
        ("ls >&- 2>&-", {}, ""),
        ("run seeds=[true] <&-", {}, "valid integer"),
        ("ls --store nowhere 2>&-", {}, ""),
        ("run", {"OMP_NUM_THREADS": "abc"}, "OMP_NUM_THREADS is 'abc'"),
        ("run", {"MKL_NUM_THREADS": "0"}, "MKL_NUM_THREADS is '0'"),
        (
            "run seeds=[true]",
            {"TZ": "No/Where", "LC_ALL": "xx_YY", "COLUMNS": "-3"},
            "valid integer",
        ),
        ("run 'case=[é]'", {"PYTHONIOENCODING": "ascii"}, "cannot read"),
        ("run $'cases.micro_2b_quick.prompt=a\\xffb'", {}, "cannot read"),
        ("run reference.device=gpu", {}, "'cuda'"),
        ("ls >/dev/full", {}, ""),
    ],
)
def test_as_a_process(line: str, variables: dict[str, str], message: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
    started = time.perf_counter()
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m harness {line}"],
        env=environment, capture_output=True, cwd=tmp_path, timeout=60, check=False,
    )  # fmt: skip
    took = time.perf_counter() - started
    said = (ended.stderr + ended.stdout).decode(errors="replace")
    assert ended.returncode == 2, said
    assert message in said
    assert "Traceback" not in said and "defect" not in said
    assert took < 2 * LIMIT_S  # the start of Python on a machine with other things to do, too
    assert list(tmp_path.iterdir()) == []
