"""A checkout of CogVideo's `sat` folder: recognised, imported, and let go of again.

Its modules have global names (`sgm`, `arguments`, ...), so a process holds one checkout at a time.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any, ClassVar, Literal

from backends.errors import InvalidRequest, MissingPrerequisite, Unsupported
from backends.worker.extras import missing, needs

Generation = Literal["1.0", "1.5"]

_MARKS = ("diffusion_video.py", "dit_video_concat.py", "sample_video.py", "arguments.py",
          "sgm", "vae_modules")  # fmt: skip
OWN = frozenset(Path(mark).stem for mark in _MARKS) | {"data_video"}
"""The top-level modules of a checkout."""
_PIP_NAMES = {"PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml"}


def find_checkout(repo: str) -> Path:
    """The `sat` folder that the option `repo` names. Raises `InvalidRequest`."""
    folder = Path(repo).expanduser().resolve()
    if not folder.is_dir():
        raise InvalidRequest(
            f"option repo={repo!r}: no such folder; expected the `sat` folder of a checkout of"
            " https://github.com/THUDM/CogVideo"
        )
    missing = [mark for mark in _MARKS if not (folder / mark).exists()]
    if missing:
        below = folder / "sat"
        hint = (
            f"did you mean {below}?"
            if all((below / mark).exists() for mark in _MARKS)
            else "name the `sat` folder of a checkout of https://github.com/THUDM/CogVideo"
        )
        raise InvalidRequest(
            f"option repo={repo!r} is not CogVideo's `sat` folder: it has no {', '.join(missing)};"
            f" {hint}"
        )
    return folder


def check_requirements() -> None:
    """Raise `MissingPrerequisite` naming every package that CogVideo's code lacks here."""
    if absent := missing("cogvideo"):
        raise MissingPrerequisite(
            f"{needs('cogvideo', absent)}, with the Python {sys.executable}; or set the variant's"
            " `python` to the interpreter that runs CogVideo"
        )


def code_digest(folder: Path) -> str:
    """SHA-256 over names and bytes of every Python file of a checkout."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(f"{path.relative_to(folder)}\n".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


class CogVideoCode:
    """The modules of one checkout, imported. `close` forgets them.

    Raises `MissingPrerequisite` for a package that is not there, `Unsupported` if the code does not
    import under this environment's versions, `InvalidRequest` while another checkout is open.
    """

    _open: ClassVar[dict[Path, int]] = {}

    def __init__(self, folder: Path) -> None:
        if others := [path for path in self._open if path != folder]:
            raise InvalidRequest(
                f"this process holds CogVideo's code from {others[0]}; close that pipeline before"
                f" one from {folder} is opened"
            )
        check_requirements()
        self.folder = folder
        self._open[folder] = self._open.get(folder, 0) + 1
        self._closed = False
        try:
            with self._importable():
                self.arguments: Any = import_module("arguments")
                self.diffusion_video: Any = import_module("diffusion_video")
                self.sample_video: Any = import_module("sample_video")
                self.util: Any = import_module("sgm.util")
                autoencoder: Any = import_module("vae_modules.autoencoder")
        except BaseException:
            self.close()
            raise
        decode = autoencoder.VideoAutoencoderInferenceWrapper.decode
        self.generation: Generation = (
            "1.5" if "use_cp" in inspect.signature(decode).parameters else "1.0"
        )

    @contextmanager
    def _importable(self) -> Generator[None]:
        from backends.sat.stack import quiet

        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        invalidate_caches()
        self._refuse_namesakes()
        try:
            with quiet():
                yield
        except ModuleNotFoundError as error:
            raise self._missing(error.name or "") from error
        except Exception as error:
            raise Unsupported(
                f"CogVideo's code in {self.folder} does not import with the packages of"
                f" {sys.executable} ({type(error).__name__}: {error}); install the versions that"
                " its requirements.txt names, or set the variant's `python` to an interpreter that"
                " has them"
            ) from error

    def _refuse_namesakes(self) -> None:
        for name in sorted(OWN & sys.modules.keys()):
            if not _lies_in(sys.modules[name], self.folder):
                raise InvalidRequest(
                    f"a module `{name}` that is not CogVideo's is already imported in this process;"
                    " CogVideo's code can only be run where that name is free"
                )

    def _missing(self, name: str) -> Exception:
        top = name.partition(".")[0]
        if top in OWN:
            return InvalidRequest(
                f"the checkout in {self.folder} is incomplete: its module {name!r} is missing;"
                " restore it, for instance with git checkout"
            )
        return MissingPrerequisite(
            f"CogVideo's own code imports {top!r}, which this Python ({sys.executable}) does not"
            f" have; pip install {_PIP_NAMES.get(top, top)}, or set the variant's `python` to the"
            " interpreter that runs CogVideo"
        )

    def close(self) -> None:
        """Forget the modules when nobody else uses them; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._open[self.folder] -= 1
        if self._open[self.folder]:
            return
        del self._open[self.folder]
        for name in [n for n in sys.modules if n.partition(".")[0] in OWN]:
            if _lies_in(sys.modules[name], self.folder):
                del sys.modules[name]
        while str(self.folder) in sys.path:
            sys.path.remove(str(self.folder))


def _lies_in(module: Any, folder: Path) -> bool:
    """Whether a module, or a namespace package without a file, comes from `folder`."""
    places = [getattr(module, "__file__", None), *(getattr(module, "__path__", None) or ())]
    return any(isinstance(p, str) and Path(p).resolve().is_relative_to(folder) for p in places)
