"""Stand-in for CogVideo's guiders."""

from backends.checkpoints.sat.config import GuidanceConfig
from backends.sat.denoiser import guidance_scale


class VanillaCFG:
    def __init__(self, scale: float) -> None:
        self.scale_schedule = lambda sigma: scale


class DynamicCFG:
    def __init__(self, scale: float, exp: float, num_steps: int) -> None:
        config = GuidanceConfig(True, scale, exp, num_steps)
        self.scale_schedule = lambda sigma, index: guidance_scale(
            config, num_steps, num_steps - index
        )
