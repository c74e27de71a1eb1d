"""Stand-in for CogVideo's VAE: this project's, called piece by piece."""

from typing import Any

from backends.sat.vae import VideoAutoencoder


class VideoAutoencoderInferenceWrapper(VideoAutoencoder):
    def decode(self, z: Any, clear_fake_cp_cache: bool = True) -> Any:  # type: ignore[override]
        lone_first = z.shape[2] % 2 == 1
        return self.decoder(z, keep=not clear_fake_cp_cache, lone_first=lone_first)
