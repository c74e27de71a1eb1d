"""The outline of a CogVideo checkout: modules of the right names that do next to nothing."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "arguments.py": "def get_args(args_list): ...\n",
    "diffusion_video.py": "class SATVideoDiffusionEngine: ...\n",
    "dit_video_concat.py": "",
    "sample_video.py": "",
    "sgm/__init__.py": "",
    "sgm/util.py": "def instantiate_from_config(config): ...\n",
    "vae_modules/autoencoder.py": (
        "class VideoAutoencoderInferenceWrapper:\n    def decode(self, z, **kwargs): ...\n"
    ),
}


def write_checkout(folder: Path, **changes: str) -> Path:
    """A checkout's `sat` folder in `folder`; `changes` replace files, `a__b` being a/b.py."""
    named = {name.replace("__", "/") + ".py": text for name, text in changes.items()}
    for name, text in (FILES | named).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
