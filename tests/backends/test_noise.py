"""The noise tape: portable, normal, keyed, and strict about what may be drawn."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from backends.errors import TapeError
from backends.noise import NoiseTape, _log, _normal_quantile, expected_step_draws, standard_normal

# Fixed once, from numpy 2.4.6 on x86-64: a change of these bits breaks every golden that was kept.
GOLDEN_SHA256 = "4ea78c612c98ff1f001f921206d80cde"


def test_quantile_agrees_with_scipy_into_the_tails() -> None:
    tail = np.logspace(-16, -2, 5001)
    p = np.concatenate([tail, np.linspace(0.01, 0.99, 5001), 1 - np.logspace(-15, -2, 5001)])
    mine, theirs = _normal_quantile(p), ndtri(p)
    assert np.abs(mine - theirs).max() <= 4e-15 * np.abs(theirs).max()
    assert np.allclose(mine, theirs, rtol=2e-15, atol=1e-16)


def test_logarithm_agrees_with_libm() -> None:
    x = np.logspace(-300, 300, 10_001)
    assert np.allclose(_log(x), np.log(x), rtol=4e-16, atol=1e-16)


def test_draws_are_standard_normal() -> None:
    values = standard_normal(7, 3, (1_000_000,)).astype(np.float64)
    assert stats.kstest(values, "norm").pvalue > 0.001
    assert abs(values.mean()) < 4e-3
    assert abs(values.std() - 1) < 3e-3
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 4e-3


def test_seeds_and_slots_are_independent() -> None:
    reference = standard_normal(0, 0, (100_000,))
    for seed, slot in ((1, 0), (0, 1), (1, 1)):
        assert abs(np.corrcoef(reference, standard_normal(seed, slot, (100_000,)))[0, 1]) < 0.02


def test_bits_are_golden() -> None:
    digest = hashlib.sha256(standard_normal(42, 0, (5, 16, 8, 8)).tobytes()).hexdigest()
    assert digest.startswith(GOLDEN_SHA256)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_bits_do_not_depend_on_threads(threads: str) -> None:
    code = (
        "from backends.noise import standard_normal as n; import hashlib;"
        "print(hashlib.sha256(n(42, 0, (5, 16, 8, 8)).tobytes()).hexdigest())"
    )
    env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PATH": "/usr/bin:/bin"}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert out.stdout.startswith(GOLDEN_SHA256)


def test_a_draw_is_a_prefix_free_function_of_its_place() -> None:
    tape = NoiseTape(5)
    with tape.stage("initial", 0, 1, 1, (2, 3)):
        first = tape.draw((2, 3))
    with tape.stage("step", 4, 2, 2, (2, 3)):
        a, b = tape.draw((2, 3)), tape.draw((2, 3))
    again = NoiseTape(5)
    with again.stage("step", 4, 2, 2, (2, 3)):
        assert np.array_equal(again.draw((2, 3)), a)
        assert np.array_equal(again.draw((2, 3)), b)
    assert not np.array_equal(a, b)
    assert not np.array_equal(first, a)


def test_digest_ignores_optional_draws_only() -> None:
    def digest(draws: int, fewest: int) -> str:
        tape = NoiseTape(1)
        with tape.stage("step", 9, fewest, 2, None):
            for _ in range(draws):
                tape.draw((4,))
        return tape.digest

    assert digest(0, 0) == digest(1, 0) == digest(2, 0)
    assert digest(1, 1) != digest(0, 0)


def test_unexpected_missing_and_misshapen_draws_are_errors() -> None:
    tape = NoiseTape(0)
    with pytest.raises(TapeError, match="outside any sampling stage"):
        tape.draw((1,))
    with pytest.raises(TapeError, match="one draw too many"), tape.stage("step", 1, 1, 1, (1,)):
        tape.draw((1,))
        tape.draw((1,))
    with pytest.raises(TapeError, match="skips a draw"), tape.stage("step", 1, 2, 2, (1,)):
        tape.draw((1,))
    with pytest.raises(TapeError, match=r"shape \(2,\), expected \(1,\)"):  # noqa: SIM117
        with tape.stage("step", 1, 1, 1, (1,)):
            tape.draw((2,))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_an_error(seed: int) -> None:
    with pytest.raises(TapeError, match="expected an integer"):
        NoiseTape(seed)


def test_expected_draws_follow_both_code_bases() -> None:
    assert [expected_step_draws("ddim", i, 4) for i in range(4)] == [(0, 0)] * 4
    assert [expected_step_draws("dpm", i, 4) for i in range(4)] == [(1, 1), (2, 2), (2, 2), (0, 1)]
