"""Rows, their YAML files, and what a wrong name or option is answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.errors import ConfigError
from harness.metrics import MetricConfigError, build_options, load_metric, metric_names

CONF = Path(__file__).parents[2] / "conf"
DEFAULT = ["psnr", "ssim", "lpips", "temporal_difference", "flicker", "warp_error"]


def composed(choice: str) -> dict[str, dict[str, object]]:
    with initialize_config_dir(str(CONF / "metrics"), version_base="1.3"):
        tree = OmegaConf.to_container(compose(choice), resolve=True)
    assert isinstance(tree, dict)
    return tree


@pytest.mark.parametrize("name", metric_names())
def test_a_row_leads_to_a_metric_of_its_name_with_a_yaml_of_its_defaults(name):
    assert load_metric(name).traits.name == name
    assert composed(name) == {name: build_options(name, {}).model_dump()}


def test_every_yaml_is_a_row():
    files = {path.stem for path in (CONF / "metrics").glob("*.yaml")}
    assert files - {"default"} == set(metric_names())


def test_the_default_group():
    assert list(composed("default")) == DEFAULT


def test_an_unknown_metric_is_answered_with_the_closest_name():
    with pytest.raises(MetricConfigError, match="did you mean 'ssim'"):
        load_metric("sim")


def test_an_unknown_option_is_answered_with_the_closest_name():
    with pytest.raises(MetricConfigError, match=r"'tile_size'.*did you mean 'tile_px'"):
        build_options("psnr", {"tile_size": 16})


@pytest.mark.parametrize("value", [0, "16", 16.5, True, None])
def test_an_option_of_another_type_or_range_is_refused(value):
    with pytest.raises(MetricConfigError, match=r"tile_px = .*conf/metrics/psnr\.yaml"):
        build_options("psnr", {"tile_px": value})


def test_a_wrong_configuration_is_the_users_to_fix():
    assert issubclass(MetricConfigError, ConfigError)


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"numpy", "pydantic", "scipy", "cv2", "skimage", "torch", "lpips"}
    program = "import sys, harness.metrics; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CONF.parent
    )
    assert not heavy & set(done.stdout.split())


def test_loading_lpips_does_not_import_torch():
    program = (
        "import sys; from harness.metrics import load_metric; load_metric('lpips');"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CONF.parent
    )
    assert done.stdout.strip() == "False"
