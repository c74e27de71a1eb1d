"""The mission in one run: three backends, one model, and what the verdicts have to say about them."""

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.errors import EXIT_EQUIVALENT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["micro_2b_quick", "micro_5b_quick"])
def pairs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp(request.param)
    code = main(
        [
            "run", f"case={request.param}",
            "candidate=[diffusers_sequential_offload,sat,sat_native]",
            f"store={folder}/store", f"results={folder}/results",
        ]
    )  # fmt: skip
    assert code == EXIT_EQUIVALENT
    verdict = json.loads((folder / "results" / "latest" / "verdict.json").read_text())
    return {pair["candidate"]: pair for pair in verdict["pairs"]}


def _latents(pair) -> float:
    (seed,) = pair["distances"]
    return seed["latents_rel_l2"]


def test_offload_is_bit_exact(pairs) -> None:
    pair = pairs["diffusers_sequential_offload"]
    assert pair["verdict"] == "bit_exact"
    assert pair["findings"] == []


def test_sat_agrees_to_float32_rounding_when_policies_are_shared(pairs) -> None:
    pair = pairs["sat"]
    assert pair["verdict"] == "rounding"
    outcomes = {check["check"]: check["outcome"] for check in pair["evidence"]}
    assert outcomes.pop("statistics.equivalence") == "noted"  # one seed proves no margin
    noted = {check for check, outcome in outcomes.items() if outcome == "noted"}
    # Forms of arguments that one stack alone has are judged by the outputs, which agree; SAT draws from
    # the global generator, which is registered.
    assert all(".arguments." in c or c.endswith(".generator") for c in noted), noted
    assert {outcome for check, outcome in outcomes.items() if check not in noted} == {"agrees"}
    assert 0 < _latents(pair) <= 1e-4
    (psnr,) = pair["scores"]["psnr"]
    assert psnr["value"] >= 60
    assert {f["kind"] for f in pair["findings"]} == {"policy"}
    assert all(f["known"] for f in pair["findings"])


def test_native_policies_move_it_visibly_and_each_is_named(pairs) -> None:
    pair = pairs["sat_native"]
    assert pair["verdict"] == "policy"
    assert _latents(pair) > 100 * _latents(pairs["sat"])
    named = {f["known"] for f in pair["findings"]}
    assert {"zero_snr_subset", "unconditional_branch", "guidance_target"} <= named
    shares = {f["known"]: f["share"] for f in pair["findings"] if f["share"] is not None}
    assert shares.keys() == {"zero_snr_subset", "unconditional_branch"}
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0
    # In float32 both stacks keep float32 latents, so that policy does not differ here.
    assert "sampler_state_dtype" not in named


def test_the_reference_repeats_itself_to_the_bit(pairs) -> None:
    for pair in pairs.values():
        assert all(seed["frames_equal"] and seed["latents_equal"] for seed in pair["floor"])


def test_sat_as_the_reference_is_equalised_as_well(tmp_path: Path) -> None:
    """Its denoiser rounds alpha_bar to all 1000 levels while its solver does not; both are shared."""
    code = main(
        [
            "run", "case=micro_5b_quick", "reference=sat", "candidate=[diffusers]",
            "judge.rerun=false", f"store={tmp_path}/store", f"results={tmp_path}/results",
        ]
    )  # fmt: skip
    assert code == EXIT_EQUIVALENT
    verdict = json.loads((tmp_path / "results" / "latest" / "verdict.json").read_text())
    assert 0 < _latents(verdict["pairs"][0]) <= 1e-4
