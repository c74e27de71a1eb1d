"""Records to plain JSON values and back, with infinities and NaN kept on purpose.

JSON has no inf and no NaN; Python's writer emits tokens that other readers reject, and pydantic's
turns them into null. Here they become the strings "inf", "-inf" and "nan".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from harness.metrics.base import Score, Unscored

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter

RecordT = TypeVar("RecordT")


def to_jsonable(record: DataclassInstance) -> dict[str, Any]:
    """A record of this package as JSON values; `json.dumps(..., allow_nan=False)` accepts it."""
    return cast("dict[str, Any]", _plain(dataclasses.asdict(record)))


def result_from_jsonable(values: Mapping[str, Any]) -> Score | Unscored:
    """The `Score` or `Unscored` that `to_jsonable` wrote, told apart by `kind`."""
    kinds: dict[str, type[Score] | type[Unscored]] = {"score": Score, "unscored": Unscored}
    kind = values.get("kind")
    if kind not in kinds:
        raise ValueError(f"a metric result has kind {kind!r}, expected one of {sorted(kinds)}")
    return record_from_jsonable(kinds[kind], values)


def record_from_jsonable(record_type: type[RecordT], values: Mapping[str, Any]) -> RecordT:
    """A record of `record_type`, checked field by field. Raises: pydantic.ValidationError."""
    return _adapter(record_type).validate_python(values)


@lru_cache
def _adapter(record_type: type[RecordT]) -> TypeAdapter[RecordT]:
    from pydantic import TypeAdapter  # 80 ms: only when a record is read back

    return TypeAdapter(record_type)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("list[Any]", value)]
    return value
