"""What a patch changed: everything that can be reached from an opened pipeline, before and after.

Seen are the attributes of every object, containers by content, the values of every tensor and array,
closures, the classes of what was met with their methods, the functions that loaded modules name, the
environment and torch's switches. A *new* name counts only where it hides one that was there: nothing
can read another one, so that a misspelt name is no change.
"""

from __future__ import annotations

import os
import sys
import types
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, cast

from backends.checkpoints.tensors import raw_bytes

_PLAIN = (str, bytes, int, float, complex, bool, type(None))
_REGISTRIES = ("_modules", "_parameters", "_buffers")
"""Where a `torch.nn.Module` keeps what is read as its attributes."""
_DEPTH = 8
"""Containers directly inside one another are followed so far; none of the stacks goes beyond 4."""


class Footprint:
    """The state of all that `root` reaches, at the moment at which this is made."""

    def __init__(self, root: object, author: str) -> None:
        """`author` is the module of the patch, whose own names are nobody else's."""
        self._objects: dict[int, object] = {}  # alive as long as this, so that no identity recurs
        self._reach(root)
        self._marks = {known: _Marks().of(thing) for known, thing in self._objects.items()}
        self._named = {
            (name, attribute): value
            for name, module in list(cast("dict[str, object]", sys.modules).items())
            if isinstance(module, types.ModuleType) and name != author
            for attribute, value in list(vars(module).items())
            if callable(value)
        }
        self._around = _around()

    def changed(self) -> bool:
        """Whether anything is otherwise now."""
        if self._around != _around():
            return True
        for (name, attribute), value in self._named.items():
            module = sys.modules.get(name)
            if module is not None and vars(module).get(attribute) is not value:
                return True
        marks = _Marks()
        return any(_differ(self._marks[i], marks.of(thing)) for i, thing in self._objects.items())

    def _reach(self, root: object) -> None:
        waiting = deque([root])
        while waiting:
            thing = waiting.popleft()
            if id(thing) not in self._objects:
                self._objects[id(thing)] = thing
                waiting.extend(_neighbours(thing))


class _Names(dict[str, Any]):
    """Marks by name; of the names that are not in `hideable` a new one is no change."""

    hideable: frozenset[str] = frozenset()


class _Marks:
    """What is compared of a thing: plain values and contents; of other objects which one it is."""

    def __init__(self) -> None:
        self._digests: dict[int, Any] = {}

    def of(self, thing: Any) -> Any:
        kind = cast("type[Any]", type(thing))
        if isinstance(thing, type):
            return self._names(cast("type[Any]", thing).__mro__[1:], dict(vars(thing)))
        if isinstance(thing, (types.FunctionType, types.MethodType, partial)):
            return [self._value(part, 0) for part in _parts(thing)]
        return kind, self._names(kind.__mro__, _attributes(thing))

    def _names(self, classes: tuple[type[Any], ...], attributes: dict[str, Any]) -> _Names:
        names = _Names({name: self._value(value, 0) for name, value in attributes.items()})
        names.hideable = frozenset(name for one in classes for name in vars(one))
        return names

    def _value(self, value: Any, depth: int) -> Any:
        if isinstance(value, _PLAIN):
            return type(value), repr(value)
        if (digest := self._digest(value)) is not None:
            return digest
        if depth < _DEPTH and isinstance(value, Mapping):
            items = cast("Mapping[Any, Any]", value).items()
            found = {self._value(k, depth + 1): self._value(v, depth + 1) for k, v in items}
            return _closed(found) if type(value) not in (dict, OrderedDict) else found
        if depth < _DEPTH and isinstance(value, (list, tuple, deque)):
            return tuple(self._value(v, depth + 1) for v in cast("list[Any]", value))
        if depth < _DEPTH and isinstance(value, (set, frozenset)):
            return frozenset(self._value(v, depth + 1) for v in cast("set[Any]", value))
        return id(value)

    def _digest(self, value: Any) -> Any:
        """A tensor or an array by its values, read once however often it is met."""
        import numpy as np
        import torch

        if not isinstance(value, (torch.Tensor, np.ndarray)):
            return None
        if id(value) not in self._digests:
            self._digests[id(value)] = (value, _contents(cast("Any", value)))
        return self._digests[id(value)][1]


def _closed(found: dict[Any, Any]) -> _Names:
    """A mapping of a class of its own is a configuration, whose readers ask for known keys."""
    return _Names(found)


def _differ(before: Any, now: Any) -> bool:
    if isinstance(before, _Names) and isinstance(now, _Names):
        if any(name not in now or _differ(mark, now[name]) for name, mark in before.items()):
            return True
        return any(name in now.hideable for name in now.keys() - before.keys())
    if isinstance(before, dict) and isinstance(now, dict):
        earlier, later = cast("dict[Any, Any]", before), cast("dict[Any, Any]", now)
        return earlier.keys() != later.keys() or any(_differ(earlier[k], later[k]) for k in earlier)
    if isinstance(before, (tuple, list)) and isinstance(now, (tuple, list)):
        one, other = cast("list[Any]", before), cast("list[Any]", now)
        return len(one) != len(other) or any(map(_differ, one, other))
    return bool(before != now)


def _attributes(thing: Any) -> dict[str, Any]:
    """The instance's own attributes, slots and a module's registries included."""
    own = dict(getattr(thing, "__dict__", {}))
    for kind in cast("type[Any]", type(thing)).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                own[name] = getattr(thing, name)
    for registry in _REGISTRIES:
        if isinstance(own.get(registry), dict):
            named = cast("dict[str, Any]", own[registry])
            if all(name.isidentifier() for name in named):  # the members of a list are all used
                own |= named
                del own[registry]
    return own


def _parts(thing: Any) -> list[Any]:
    """What a callable is made of."""
    if isinstance(thing, partial):
        whole = cast("partial[Any]", thing)
        return [whole.func, whole.args, whole.keywords]
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    cells = [_cell(cell) for cell in thing.__closure__ or ()]
    return [thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells]


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _neighbours(thing: Any) -> Iterator[object]:
    """The objects that `thing` leads to, through any containers."""
    if isinstance(thing, type):
        yield from _objects(list(cast("type[Any]", thing).__mro__), 0)
    elif isinstance(thing, (types.FunctionType, types.MethodType, partial)):
        yield from _objects(_parts(thing), 0)
    else:
        yield type(thing)
        yield from _objects(_attributes(thing), 0)


def _objects(value: Any, depth: int) -> Iterator[object]:
    import numpy as np
    import torch

    if isinstance(value, (*_PLAIN, types.ModuleType, types.CodeType, torch.Tensor, np.ndarray)):
        return
    if depth < _DEPTH and isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            yield from _objects(key, depth + 1)
            yield from _objects(item, depth + 1)
    elif depth < _DEPTH and isinstance(value, (list, tuple, deque, set, frozenset)):
        for item in cast("list[Any]", value):
            yield from _objects(item, depth + 1)
    else:
        yield value


def _contents(value: Any) -> Any:
    """Shape, dtype and a checksum of the values; which object it is, where they cannot be read.

    Of a tensor also where and how it lies in memory: another format or offset may take another kernel.
    Not its address, since a copy computes the same."""
    import numpy as np

    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        whole = array.dtype != object
        return array.shape, str(array.dtype), zlib.crc32(array.tobytes()) if whole else id(array)
    try:
        lies = str(value.device), value.stride(), value.storage_offset()
        checksum = zlib.crc32(raw_bytes(value).numpy().data)
    except (RuntimeError, NotImplementedError, TypeError):  # on no device, sparse, quantised
        lies, checksum = (), (id(value), value._version)
    return tuple(value.shape), str(value.dtype), lies, checksum


def _around() -> list[Any]:
    """What every computation of this process depends on besides its objects."""
    import torch

    backends = torch.backends
    return [
        dict(os.environ), torch.get_num_threads(), torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark,
        backends.cuda.flash_sdp_enabled(), backends.cuda.mem_efficient_sdp_enabled(),
        backends.cuda.math_sdp_enabled(),
        torch.is_grad_enabled(), torch.get_rng_state().numpy().tobytes(),
    ]  # fmt: skip
