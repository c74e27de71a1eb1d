"""Known differences cover the values that the two code bases have, and no others."""

from typing import Any

import pytest

from harness.judge.known import KNOWN, equalised_by_match, known_difference


@pytest.mark.parametrize(
    ("policy", "a", "b"),
    [
        ("image_scale", 1.0, 1 / 0.7),
        ("layer_norm_eps", 1e-6, 1e-5),
        ("latent_dtype", "bfloat16", "float32"),
        ("unconditional", "zeros", "text encoder of the negative prompt"),
    ],
)
def test_what_the_code_bases_do_is_known_in_either_order(policy: str, a: Any, b: Any) -> None:
    assert known_difference(policy, a, b) is not None
    assert known_difference(policy, b, a) is not None


@pytest.mark.parametrize(
    ("policy", "a", "b"),
    [
        ("image_scale", 1 / 0.7, 0.7),  # a 1.5 model's picture scaled as a 1.0 one
        ("image_scale", 1.0, 0.7),
        ("image_scale", None, 1.0),
        ("layer_norm_eps", 1e-3, 1e-5),
        ("latent_dtype", "bfloat16", "float16"),
        ("unconditional", "zeros", "the prompt itself"),
        (
            "schedule",
            "pick the timesteps",
            "no rescaling to zero terminal SNR, then pick (leading)",
        ),
        ("a policy of nobody's", 1, 2),
    ],
)
def test_any_other_value_is_not(policy: str, a: Any, b: Any) -> None:
    assert known_difference(policy, a, b) is None


def test_what_a_match_factor_decides_is_said_by_the_registry() -> None:
    assert {row.policy for row in KNOWN if equalised_by_match(row.policy)} == {
        "schedule", "unconditional", "latent_dtype", "image_scale",
    }  # fmt: skip
