"""Where LPIPS takes its weights from, and that nothing stands in for them in silence."""

from __future__ import annotations

import io
import urllib.error

import pytest

torch = pytest.importorskip("torch")

from harness.metrics import Score, Unscored, lpips_model, score_pair  # noqa: E402


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for cached in (lpips_model._fetch_once, lpips_model._load_pretrained):
        cached.cache_clear()
    yield
    for cached in (lpips_model._fetch_once, lpips_model._load_pretrained):
        cached.cache_clear()


@pytest.fixture
def served(monkeypatch):
    """Serve bytes in place of the network; counts the requests."""
    requests: list[str] = []
    answers: dict[str, bytes] = {}

    def urlopen(url, timeout):
        requests.append(url)
        if url not in answers:
            raise urllib.error.URLError("no network")
        return io.BytesIO(answers[url])

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return requests, answers


def checkpoint(monkeypatch) -> bytes:
    """A backbone file as torchvision lays it out, and its hash as the expected one."""
    import hashlib

    source = lpips_model.untrained_model(5)
    weights = {
        f"features.{name.split('.', 1)[1]}": parameter
        for name, parameter in source.net.named_parameters()
    }
    file = io.BytesIO()
    torch.save(weights, file)
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    monkeypatch.setattr(lpips_model, "SHA256_PREFIX", digest[:8])
    return file.getvalue()


def test_no_weights_and_no_network_is_unscored_with_one_command(clip, served):
    requests, _ = served
    for _ in range(2):
        result = score_pair(clip, clip, {"lpips": {}})["lpips"]
        assert isinstance(result, Unscored)
        assert "no pretrained AlexNet" in result.reason
        assert "no network" in result.reason
        assert str(lpips_model.backbone_path()) in result.remedy
        assert lpips_model.URL in result.remedy
    assert len(requests) == 1


def test_a_file_that_appears_later_is_used(clip, served, monkeypatch):
    content = checkpoint(monkeypatch)
    assert isinstance(score_pair(clip[:1], clip[:1], {"lpips": {}})["lpips"], Unscored)
    lpips_model.backbone_path().write_bytes(content)
    assert isinstance(score_pair(clip[:1], clip[:1], {"lpips": {}})["lpips"], Score)


def test_fetched_weights_are_kept_and_used(clip, with_noise, served, monkeypatch):
    requests, answers = served
    answers[lpips_model.URL] = checkpoint(monkeypatch)
    pair = clip[:1], with_noise(9.0)[:1]
    trained = score_pair(*pair, {"lpips": {}})["lpips"]
    assert lpips_model.backbone_path().read_bytes() == answers[lpips_model.URL]
    assert requests == [lpips_model.URL]
    # the served file holds the untrained weights of seed 5
    same = score_pair(*pair, {"lpips_alex_untrained": {"seed": 5}})["lpips_alex_untrained"]
    other = score_pair(*pair, {"lpips_alex_untrained": {"seed": 0}})["lpips_alex_untrained"]
    assert trained.value == same.value != other.value


def test_other_content_is_not_kept(clip, served):
    _, answers = served
    answers[lpips_model.URL] = b"<html>sign in to this network</html>"
    result = score_pair(clip, clip, {"lpips": {}})["lpips"]
    assert "gave other content" in result.reason
    assert not lpips_model.backbone_path().exists()


def test_a_damaged_file_is_unscored_with_the_command_that_replaces_it(clip):
    path = lpips_model.backbone_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a file")
    result = score_pair(clip, clip, {"lpips": {}})["lpips"]
    assert "damaged" in result.reason
    assert result.remedy.startswith(f"rm {path} && ")


def test_the_untrained_network_leaves_the_random_state_alone(clip):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    lpips_model.untrained_model.cache_clear()
    lpips_model.untrained_model(0)
    assert torch.equal(torch.rand(3), expected)
