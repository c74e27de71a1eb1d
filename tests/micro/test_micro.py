"""The embedded models are what they claim: a learnable world, trained weights, real formats."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from PIL import Image
from transformers import AutoTokenizer

from backends.micro import MEDIA, MODELS, media_path, model_path
from tests.micro.quality import (
    LEAST_FIRST_FRAME_DB,
    LEAST_VAE_DB,
    REQUIRED,
    accuracy,
    vae_psnr_db,
)
from tests.micro.training import media
from tests.micro.training.assemble import LOUD_BLOCK, LOUD_POWER
from tests.micro.training.clips import captions, clip, draw, scene_from_middle
from tests.micro.training.derived_stage import rotary_positions
from tests.micro.training.growth import OFS, grow
from tests.micro.training.kinds import KINDS, Kind, build_transformer
from tests.micro.training.measure import look
from tests.micro.training.text import TEXT_LENGTH

TRAINED_ALONE = [name for name, kind in KINDS.items() if kind.parent is None]


@pytest.mark.parametrize("frames", [9, 17, 25])
def test_ground_truth_is_read_back_without_a_mistake(frames: int) -> None:
    for seed in range(0, 400, 5):
        video, caption = clip(seed, frames)
        seen, words = look(video), caption.split()
        assert (seen.colour, seen.direction, seen.background) == (words[1], words[4], words[7])


def test_a_clip_is_a_function_of_its_seed() -> None:
    video, caption = clip(7)
    again, same = clip(7)
    assert np.array_equal(video, again)
    assert caption == same
    assert video.shape == (17, 64, 64, 3)
    assert video.dtype == np.float32
    assert 0 <= video.min() < video.max() <= 1


def test_nothing_is_read_out_of_noise_or_a_still() -> None:
    noise = np.random.default_rng(0).random((17, 64, 64, 3)).astype(np.float32)
    still = np.repeat(clip(3)[0][:1], 17, axis=0)
    assert look(still).direction is None
    assert look(noise).direction is None


@pytest.mark.parametrize("model", MODELS)
def test_tokenizer_knows_every_caption_and_spells_the_rest(model: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path(model) / "tokenizer")
    for caption in captions():
        ids = tokenizer(caption).input_ids
        assert len(ids) <= TEXT_LENGTH
        assert tokenizer.decode(ids, skip_special_tokens=True) == caption
        assert tokenizer.unk_token_id not in ids
    odd = tokenizer("A panda, 2 metres tall!").input_ids
    assert tokenizer.unk_token_id not in odd
    assert tokenizer("").input_ids == [tokenizer.eos_token_id]
    assert (model_path(model) / "tokenizer" / "spiece.model").is_file()


def test_all_weights_together_stay_small() -> None:
    root = model_path("micro-2b").parent
    files = [path for path in root.rglob("*") if path.is_file()]
    # What a model has in common with another is a link.
    total = sum(path.stat().st_size for path in files if not path.is_symlink())
    assert total < 36 * 2**20
    assert all(path.resolve().is_relative_to(root) for path in files)


@pytest.mark.parametrize("model", TRAINED_ALONE)
def test_vae_reconstructs_unseen_clips(model: str) -> None:
    assert vae_psnr_db(model, clips=4, frames=17) >= LEAST_VAE_DB


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_renders_show_what_the_prompt_says(model: str) -> None:
    """A sample of the full measurement, with room for the sample's own error."""
    seen = accuracy(model, prompts=8, steps=25)
    assert min(seen[name] for name in REQUIRED) >= 0.75, seen
    if KINDS[model].image:
        assert seen["first_frame_db"] >= LEAST_FIRST_FRAME_DB, seen


def _attention(model: str, dtype: torch.dtype) -> torch.nn.Module:
    transformer = CogVideoXTransformer3DModel.from_pretrained(
        model_path(model), subfolder="transformer", torch_dtype=dtype
    )
    return transformer.transformer_blocks[LOUD_BLOCK].attn1


@pytest.mark.parametrize("model", [name for name in MODELS if name != "micro-2b"])
def test_the_5b_needs_the_exponent_range_of_bfloat16(model: str) -> None:
    torch.manual_seed(0)
    hidden, text = torch.randn(1, 80, 128), torch.randn(1, 24, 128)
    finite = {}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        video, _ = _attention(model, dtype)(hidden.to(dtype), text.to(dtype))
        finite[dtype] = bool(torch.isfinite(video).all())
    assert finite == {torch.float16: False, torch.bfloat16: True, torch.float32: True}
    video, _ = _attention("micro-2b", torch.float16)(hidden.half(), text.half())
    assert torch.isfinite(video).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_range_costs_no_bit_elsewhere(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden, text = torch.randn(1, 80, 128).to(dtype), torch.randn(1, 24, 128).to(dtype)
    loud = _attention("micro-5b", dtype)
    outputs = loud(hidden, text)
    with torch.no_grad():
        loud.to_v.weight.mul_(2.0**-LOUD_POWER)
        loud.to_v.bias.mul_(2.0**-LOUD_POWER)
        loud.to_out[0].weight.mul_(2.0**LOUD_POWER)
    for a, b in zip(outputs, loud(hidden, text), strict=True):
        assert torch.equal(a, b)


def test_an_unknown_model_names_the_near_one() -> None:
    with pytest.raises(KeyError, match="did you mean 'micro-2b'"):
        model_path("micro2b")


def test_a_shape_that_starts_in_the_middle_does_not_tell_where_it_goes() -> None:
    for seed in range(0, 400, 5):
        what = scene_from_middle(seed)
        assert max(abs(place - 0.5) for place in what.start) < 0.2
        seen, words = look(draw(what)), what.caption.split()
        assert (seen.colour, seen.direction, seen.background) == (words[1], words[4], words[7])


def test_the_shipped_picture_and_clip_are_what_their_program_writes(tmp_path: Path) -> None:
    media.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(MEDIA)
    for name in MEDIA:
        with Image.open(tmp_path / name) as fresh, Image.open(media_path(f"micro:{name}")) as kept:
            assert kept.n_frames == fresh.n_frames == (17 if "clip" in name else 1)
            for frame in range(kept.n_frames):
                kept.seek(frame)
                fresh.seek(frame)
                assert np.array_equal(np.asarray(kept), np.asarray(fresh))
    with pytest.raises(KeyError, match=r"did you mean 'red-circle\.png'"):
        media_path("micro:red-circl.png")


def _transformer(kind: Kind, parent: torch.nn.Module | None) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_transformer(kind) if parent is None else grow(kind, parent)


@pytest.mark.parametrize("name", ["micro-5b-i2v", "micro-1.5-5b-i2v"])
def test_a_picture_model_starts_as_its_parent(name: str) -> None:
    """New channels, learned positions and the `ofs` embedding change nothing before training."""
    kind = KINDS[name]
    parent = _transformer(KINDS[str(kind.parent)], None)
    grown = _transformer(kind, parent)
    frames = 6 if kind.patch_frames else 5
    x, text = torch.randn(1, frames, 16, 8, 8), torch.randn(1, 24, 64)
    common = {
        "encoder_hidden_states": text,
        "timestep": torch.tensor([500]),
        "image_rotary_emb": rotary_positions(kind, frames),
        "return_dict": False,
    }
    ofs = torch.full((1,), OFS) if kind.patch_frames else None
    with torch.no_grad():
        before = parent(hidden_states=x, **common)[0]
        given = torch.cat([x, torch.randn_like(x)], dim=2)
        after = grown(hidden_states=given, ofs=ofs, **common)[0]
    torch.testing.assert_close(after, before)


def test_folders_hold_no_paths_of_the_machine_that_made_them() -> None:
    for path in Path(model_path("micro-2b").parent).rglob("*.json"):
        assert not re.search(r'"/\w', path.read_text()), f"{path} holds an absolute path"
