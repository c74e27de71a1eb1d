"""Where a render ran: versions, hardware, memory. Read without importing torch."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = {
    "torch": "torch",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "sat": "SwissArmyTransformer",
    "numpy": "numpy",
}


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
        f" (family {found.get('cpu family', '?')}, model {found.get('model', '?')})"
    )


def _gpus() -> list[str]:
    """NVIDIA devices that the driver lists and this process may see; none elsewhere."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return []
    names: list[str] = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        model = [line for line in path.read_text().splitlines() if line.startswith("Model:")]
        names += [model[0].split(":", 1)[1].strip()] if model else []
    return names


def describe() -> dict[str, str]:
    """Versions and hardware that decide a render's bits, as a flat mapping of strings."""
    found = {"python": platform.python_version(), "platform": sys.platform}
    for name, distribution in _PACKAGES.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            found[name] = "not installed"
    found["cpu"] = _cpu_model()
    found["gpu"] = ", ".join(_gpus()) or "none"
    return found


def peak_memory_gib() -> dict[str, float]:
    """Highest memory use of this process so far, in GiB: `host`, and `cuda` if torch used it."""
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated() / 2**30
    return peak
