"""An installed wheel works in an empty folder, without the extras: configuration, templates and models
travel with it, what is imported is declared, and what is declared is imported.
"""

import ast
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from backends.sat.tree.checkout import OWN
from backends.worker.extras import EXTRAS, command
from harness.config import compose

ROOT = Path(__file__).parents[1]

ROOMS = {
    "backends/sat/": "sat",
    "backends/roundtrip/drive_sat.py": "sat",
    "harness/export/tracking.py": "mlflow",
    "harness/export/": "export",
}
"""The code that may need an extra, wherever the import stands in it."""

UNDECLARED = {
    "_typeshed",  # for type checkers only
    "pytest",  # it loads the plugin
    "torchao",  # for one option, which names it; no release of it goes with every torch
    *OWN,  # a checkout of CogVideo, which the user names
}
TRANSFORMERS_IMPORTS = {"sentencepiece"}
"""It reads a tokenizer that is `spiece.model` alone with it, as those of the published models are."""
OTHERS_IMPORT = {"wandb", "pytorch-lightning", "kornia", "beartype"}
"""What SwissArmyTransformer and CogVideo's code import and do not declare."""

OPTIONAL = ("sat", "wandb", "deepspeed", "duckdb", "mlflow", "pyarrow", "hydra_plugins")

# Found neither by an import nor by a look whether it is there; an import is written down.
ABSENT = """\
import sys
from importlib.machinery import PathFinder


class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in {names!r}:
            return super().find_spec(name, path, target)
        frame = sys._getframe()
        while frame is not None and frame.f_globals["__name__"] != "importlib.util":
            frame = frame.f_back
        if frame is None:
            with open({imported!r}, "a") as stream:
                print(name, file=stream)
        return None


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutExtras
"""
Parity = Callable[..., subprocess.CompletedProcess[str]]


def product() -> Iterator[tuple[str, str]]:
    """Every file of the product with every module that it imports from elsewhere, lazily or not."""
    for path in sorted(p for room in ("harness", "backends") for p in (ROOT / room).rglob("*.py")):
        for name in _imported(ast.parse(path.read_text())):
            top = name.partition(".")[0]
            if top not in {*sys.stdlib_module_names, "harness", "backends", *UNDECLARED}:
                yield str(path.relative_to(ROOT)), top


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared(project: dict[str, Any], extra: str | None = None) -> set[str]:
    """The distributions of the base, or of an extra with the extras that it names."""
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    found: set[str] = set()
    for requirement in map(Requirement, lines):
        if requirement.name == project["name"]:
            found |= {name for other in requirement.extras for name in declared(project, other)}
        else:
            found.add(canonicalize_name(requirement.name))
    return found


@cache
def distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def brought_by(module: str) -> set[str]:
    return {canonicalize_name(name) for name in distributions().get(module, [])}


def test_what_is_imported_is_declared_where_it_is_needed(project: dict[str, Any]) -> None:
    for path, module in product():
        allowed = declared(project)
        for room, extra in ROOMS.items():
            if path.startswith(room):
                allowed |= declared(project, extra)
        assert brought_by(module) & allowed, (
            f"{path} imports {module}, which comes with {brought_by(module) or 'nothing here'};"
            " pyproject.toml declares none of it for that room"
        )


def test_what_is_declared_is_imported(project: dict[str, Any]) -> None:
    base = {
        name
        for path, module in product()
        if not path.startswith(tuple(ROOMS))
        for name in brought_by(module)
    }
    unused = declared(project) - base - TRANSFORMERS_IMPORTS
    assert unused == set(), f"no use of {unused}"
    named = {canonicalize_name(name) for each in EXTRAS.values() for name in each.packages.values()}
    imported = {name for _, module in product() for name in brought_by(module)}
    launchers = {name for name in named if name.startswith("hydra-")}
    assert named <= imported | OTHERS_IMPORT | launchers


def test_every_extra_is_known_by_its_packages(project: dict[str, Any]) -> None:
    extras = set(project["optional-dependencies"]) - {"dev", "bench"}
    assert extras == set(EXTRAS)
    for name in extras:
        assert declared(project, name) == set(
            map(canonicalize_name, EXTRAS[name].packages.values())
        )
        assert command(name) == f"pip install '{project['name']}[{name}]'"
    for module, package in {m: p for e in EXTRAS.values() for m, p in e.packages.items()}.items():
        brought = brought_by(module.partition(".")[0])
        assert not brought or canonicalize_name(package) in brought
    everything = set().union(*(declared(project, name) for name in extras - {"cogvideo"}))
    assert everything <= declared(project, "dev"), "`make demo` and `make test` show them"


def test_every_launcher_that_ships_is_an_extra() -> None:
    chosen = [p.read_text().partition("  - ")[2].split()[0] for p in
              (ROOT / "conf" / "hydra" / "launcher").glob("*.yaml")]  # fmt: skip
    assert chosen
    assert {compose._LAUNCHERS[name.partition("_")[0]] for name in chosen} <= set(EXTRAS)


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """Where imports of what is absent are written down."""
    return tmp_path / "imported"


@pytest.fixture
def parity(tmp_path: Path, imported: Path) -> Parity:
    """The command in an empty folder where no extra is installed, in the workers as well."""
    lent, empty = tmp_path / "absent", tmp_path / "empty"
    lent.mkdir()
    empty.mkdir()
    (lent / "sitecustomize.py").write_text(ABSENT.format(names=OPTIONAL, imported=str(imported)))

    def run(*arguments: str, site: Path = ROOT) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": f"{lent}{os.pathsep}{site}"}
        return subprocess.run(
            [sys.executable, "-m", "harness", *arguments],
            cwd=empty, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def _names(imported: Path) -> set[str]:
    return set(imported.read_text().split()) if imported.exists() else set()


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (["run", "candidate=[sat]"], "SwissArmyTransformer", "sat"),
        (["run", "reference=sat", "candidate=[diffusers]"], "SwissArmyTransformer", "sat"),
        (["run", "-m", "candidate=[sat]", "seeds=[0],[1]"], "SwissArmyTransformer", "sat"),
        (["probe", "candidate=[sat]"], "SwissArmyTransformer", "sat"),
        (["roundtrip", "micro-2b", "--backend", "sat"], "SwissArmyTransformer", "sat"),
        (["run", "-m", "hydra/launcher=parallel"], "hydra-joblib-launcher", "joblib"),
        (["run", "-m", "hydra/launcher=local"], "hydra-submitit-launcher", "slurm"),
        (["run", "-m", "hydra/launcher=slurm"], "hydra-submitit-launcher", "slurm"),
        (["export"], "pyarrow", "export"),
        (["export", "--mlflow", "http://127.0.0.1:9"], "mlflow-skinny and pyarrow", "mlflow"),
    ],
)
def test_a_missing_extra_is_one_message_with_its_command(
    arguments: list[str], package: str, extra: str, parity: Parity, imported: Path
) -> None:
    done = parity(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("parity: ")
    assert package in line
    assert line.endswith(f"not installed: pip install 'cogvideox-parity[{extra}]'")
    if arguments[0] == "roundtrip":
        assert "sat" in _names(imported), "the worker was not under the same rule"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["export", "--schema"],
        ["audit", "micro-2b", "micro-2b"],
        ["convert", "micro-2b", "sat-folder", "--to", "sat"],
        ["audit", "--config", "case=[micro_2b]", "candidate=[sat]"],
    ],
)
def test_what_needs_no_extra_imports_none(
    arguments: list[str], parity: Parity, imported: Path
) -> None:
    done = parity(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _names(imported) <= {"hydra_plugins"}, "beside what Hydra looks for"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
               "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]  # fmt: skip
    subprocess.run(command, check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_everything_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "harness/conf/config.yaml",
        "harness/conf/experiment/demo.yaml",
        "backends/micro/weights/micro-2b/model_index.json",
        "backends/micro/weights/micro-5b/transformer/diffusion_pytorch_model.safetensors",
    ):
        assert needed in names
    assert any(name.startswith("harness/report/templates/") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"harness", "backends"}


@pytest.mark.slow
def test_a_run_in_an_empty_folder_without_extras(
    wheel: Path, tmp_path: Path, parity: Parity, imported: Path
) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    env = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import harness; print(harness.__file__)"],
        cwd=empty, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(site))
    arguments = ["case=micro_2b_quick", "candidate=[diffusers_model_offload]", "judge.rerun=false"]
    ran = parity("run", *arguments, site=site)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    verdict = json.loads((empty / "results" / "latest" / "verdict.json").read_text())
    assert [pair["verdict"] for pair in verdict["pairs"]] == ["bit_exact"]
    assert {path.name for path in empty.iterdir()} == {"results"}
    assert _names(imported) == {"hydra_plugins"}
