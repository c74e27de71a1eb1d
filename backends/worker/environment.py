"""Where a render ran: versions, hardware, memory. Read without importing torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path

import backends

_PACKAGES = {
    "torch": "torch",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "sat": "SwissArmyTransformer",
    "numpy": "numpy",
}


CODE = "code."
"""Begins the keys of `describe` that identify the sources of an installed backend."""

VARIABLE = "$"
"""Begins the keys of an environment that are variables and their values."""

_PASSING = ("interpreter", "installed", "variables", "cpus", "threads")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {
        line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line
    }
    # The model name alone does not decide the kernels that run: the family and model number do.
    return (
        f"{found.get('model name', platform.machine())}"
        f" (family {found.get('cpu family', '?')}, model {found.get('model', '?')},"
        f" features {hashlib.sha256(found.get('flags', '?').encode()).hexdigest()[:8]})"
    )


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA device: what CUDA_VISIBLE_DEVICES calls it, and its model."""

    name: str
    model: str


def gpus(driver: Path = Path("/proc/driver/nvidia/gpus")) -> list[Gpu]:
    """The NVIDIA devices that this process may use, in the order in which CUDA numbers them.

    An entry of CUDA_VISIBLE_DEVICES that the driver does not list is taken for the first model.
    """
    listed: list[Gpu] = []
    for path in sorted(driver.glob("*/information")):
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, value in lines.items()}
        listed.append(Gpu(facts.get("GPU UUID", str(len(listed))), facts.get("Model", "unknown")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not listed:
        return listed
    by_name = {str(number): gpu.model for number, gpu in enumerate(listed)}
    by_name |= {gpu.name: gpu.model for gpu in listed}
    names = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [Gpu(name, by_name.get(name, listed[0].model)) for name in names]


@cache
def sources_digest(package: str) -> str:
    """Hash of a package's Python sources, without running any: a version alone does not tell two
    commits apart."""
    spec = find_spec(package)
    if spec is None:
        return "missing"
    roots = [Path(place) for place in spec.submodule_search_locations or ()]
    files = [path for root in roots for path in sorted(root.rglob("*.py"))]
    if not files and spec.origin is not None:
        files = [Path(spec.origin)]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _installed(path: tuple[str, ...]) -> dict[str, str]:
    """The digest of every backend that another package on `path` brings; asked for at every job."""
    return {
        CODE + point.name: sources_digest(point.module.partition(".")[0])
        for point in entry_points(group="parity.backends")
    }


def default_threads() -> int:
    """Threads that a worker computes with if it is not told: OMP_NUM_THREADS, or physical cores.

    Torch's own default is the same, but depends on the OpenMP library that it was built with.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if given.isdecimal() and int(given) > 0:
        return int(given)
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores: set[str] = set()
    for cpu in os.sched_getaffinity(0):
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(topology.read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def _cpus() -> str:
    """How many processors may be used: the default of torch's pool between operations."""
    return str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


def _installed_digest() -> str:
    """Digest of the names and versions of all that is installed; what is absent decides as well."""
    digest = hashlib.sha256()
    for entry in sys.path:
        for each in sorted(Path(entry or ".").glob("*.*-info")):
            digest.update(f"{each.name}\n".encode())
        for each in sorted(Path(entry or ".").glob("*.pth")):  # they decide what is found where
            digest.update(each.read_bytes())
    return digest.hexdigest()[:16]


def _interpreter() -> str:
    """Which interpreter this is, and a digest of its flags and of where it looks for modules."""
    lent = str(Path(backends.__file__).absolute().parents[1])
    path = [entry for entry in sys.path if entry != lent]
    told = json.dumps([path, list(sys.flags)]).encode()
    return f"{sys.executable} ({hashlib.sha256(told).hexdigest()[:16]})"


def _driver(path: Path = Path("/proc/driver/nvidia/version")) -> str:
    try:
        return path.read_text().partition("\n")[0].strip()
    except OSError:
        return "none"


def lasting(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that a golden belongs to: it outlives changes of code, of a shell's
    variables, and of packages that have no part in it."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith((CODE, VARIABLE)) and name not in _PASSING
    }


def describe() -> dict[str, str]:
    """Versions and hardware that decide a render's bits, as a flat mapping of strings.

    `code.NAME` identifies the sources of a backend that another package brings, `installed` all
    that is installed. What of it is read, file by file, is known afterwards (`backends.worker.reads`).
    """
    found = {"python": platform.python_version(), "platform": sys.platform}
    for name, distribution in _PACKAGES.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            found[name] = "not installed"
    found |= _installed(tuple(sys.path))
    found["cpu"] = _cpu_model()
    # A worker computes on one device: the first, or one that is like it (`harness.workers.devices`).
    found["gpu"] = next((gpu.model for gpu in gpus()), "none")
    found["driver"] = _driver()
    found["interpreter"] = _interpreter()
    found["installed"] = _installed_digest()
    found["cpus"] = _cpus()
    return found


def peak_memory_gib() -> dict[str, float]:
    """Highest memory use of this process so far, in GiB: `host`, and `cuda` if torch used it."""
    peak = {"host": _peak_resident_kib() / 2**20}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated() / 2**30
    return peak


def _peak_resident_kib(status: Path = Path("/proc/self/status")) -> float:
    # `getrusage` counts what the process that started this one held before this one's program.
    with contextlib.suppress(OSError):
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
