"""One look at all videos of a pair gives what the metrics and the readings give one by one."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness.errors import StoreError
from harness.metrics import score_pair, to_jsonable
from harness.metrics.readings import read_video
from harness.render.frames import StoredVideo, write_lossless
from harness.verdict.scoring import look

METRICS = {"psnr": {"tile_px": 16}, "temporal_difference": {"tile_px": 16}}


class _Store:
    """As much of a store as a look needs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.videos: dict[str, np.ndarray] = {}

    def keep(self, role: str, seed: int) -> SimpleNamespace:
        key = f"{role}-{seed}"
        generator = np.random.default_rng(len(self.videos))
        self.videos[key] = generator.integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
        self.render_folder(key).mkdir()
        write_lossless(self.render_folder(key) / "frames.mkv", self.videos[key], 8)
        return SimpleNamespace(key=key, seed=seed)

    def render_folder(self, key: str) -> Path:
        return self.root / key


def test_every_video_is_decoded_once_and_seen_as_by_itself(tmp_path, monkeypatch):
    store = _Store(tmp_path)
    roles = ("reference", "candidate", "member split_guidance")
    records = {role: [store.keep(role, seed) for seed in (3, 5)] for role in roles}
    decoded: list[Path] = []
    read = StoredVideo.__iter__
    monkeypatch.setattr(
        StoredVideo, "__iter__", lambda video: decoded.append(video.path) or read(video)
    )
    reference = records.pop("reference")
    found = look(store, reference, records, METRICS)
    assert len(decoded) == len(set(decoded)) == 6
    assert list(found.scores) == list(records)
    for at, wanted in enumerate(reference):
        a = store.videos[wanted.key]
        assert found.readings["reference"][at] == read_video(a)
        for role, of_role in records.items():
            b = store.videos[of_role[at].key]
            assert found.readings[role][at] == read_video(b)
            for name, result in score_pair(a, b, METRICS).items():
                assert found.scores[role][name][at] == to_jsonable(result)


def test_a_video_that_is_missing_is_an_error(tmp_path):
    store = _Store(tmp_path)
    reference, candidate = store.keep("reference", 0), store.keep("candidate", 0)
    (store.render_folder(candidate.key) / "frames.mkv").unlink()
    with pytest.raises(StoreError, match="missing"):
        look(store, [reference], {"candidate": [candidate]}, METRICS)
