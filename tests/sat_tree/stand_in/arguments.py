"""Stand-in for CogVideo's argument parser: the YAML files, merged."""

from argparse import Namespace
from typing import Any

from omegaconf import OmegaConf


def get_args(args_list: list[str]) -> Namespace:
    config: Any = OmegaConf.merge(*map(OmegaConf.load, args_list[1:]))
    return Namespace(model_config=config.model, deepspeed_config=None, **config.args)
