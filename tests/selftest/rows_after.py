"""Faults after decoding. Every stage is right, so only the native run's frames can tell."""

from __future__ import annotations

from harness.records import VerdictName
from tests.selftest.row import Fault
from tests.selftest.setting import FIVE, FIVE_BF16, SAT_FIVE, SAT_TWO, TWO, TWO_BF16, Setting

_ALSO = {TWO: (SAT_TWO,), FIVE: (FIVE_BF16,), TWO_BF16: (TWO,), FIVE_BF16: (SAT_FIVE,),
         SAT_TWO: (TWO_BF16,), SAT_FIVE: (FIVE,)}  # fmt: skip


def _after(
    name: str,
    summary: str,
    first: Setting,
    field: str | None = None,
    expected: tuple[VerdictName, ...] = ("bug",),
) -> Fault:
    return Fault(
        f"frames_{name}", "frames", summary, "frames", (first, *_ALSO[first]),
        "tests.selftest.faults.frames", field=field, expected=expected,
    )  # fmt: skip


ROWS = (
    _after("gain", "3 % brighter", TWO),
    _after("duplicated", "one frame in the middle shown twice", FIVE),
    _after("flicker", "3 grey levels of flicker", TWO_BF16),
    _after("patch", "a patch is 20 grey levels brighter", FIVE_BF16),
    _after("gamma", "gamma 1.05", FIVE),
    _after("bgr", "blue and red exchanged", SAT_TWO, field="I09"),
    _after("pixel_shift", "one pixel to the right", TWO),
    _after("limited_range", "16 to 235 read as full range", FIVE),
    _after("chroma_shift", "the blue plane one pixel lower", TWO),
    _after("reversed", "last frame first", FIVE),
    _after("late", "all frames one later", SAT_FIVE),
    _after("truncated_levels", "cut to grey levels instead of rounded", TWO, field="E05"),
    _after("last_repeated", "the last frame is the last but one", TWO),
    _after("first_dropped", "first frame dropped, last one doubled", FIVE, field="E07"),
    _after("ghost", "a tenth of the frame before shines through", TWO_BF16),
    _after("blurred", "resized to 7/8 and back", FIVE),
    _after("banded", "six bits a channel", FIVE_BF16),
    _after("interlaced", "odd lines come from the frame before", TWO),
    _after("saturation", "colours 5 % weaker", FIVE),
    _after("cropped", "one pixel cut off at each edge, the rest stretched", TWO),
    _after("one_nan", "one pixel is not a number", FIVE, "E06", ("broken",)),
    _after("black", "a black video", TWO, "E06", ("broken", "bug")),
    _after("frozen", "the first frame throughout", FIVE, None, ("broken", "bug")),
)
