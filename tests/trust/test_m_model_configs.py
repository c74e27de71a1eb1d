"""Kind M: a model folder whose settings, weights or tokenizer are wrong is refused in one message.

The wrong settings are generated: every key that the installed class of a component knows, with values of
other types and beyond the range. As many right ones are generated from every class of Diffusers.
"""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import diffusers
import pytest
import transformers
import yaml
from model_folders import PARTS, change_settings, check, config_file, copied

from backends.checkpoints import convert
from backends.checkpoints.sat.yaml_reader import read_config
from backends.checkpoints.sound import accepted, check_settings
from backends.errors import CheckpointError
from backends.micro import MODELS, checkpoint_path
from harness.cli import main

NAN = math.nan
WRONG: dict[type, list[Any]] = {
    bool: ["true", "", 2, -1, NAN, [True], {}, None],
    int: [-1, 0, 1.5, NAN, math.inf, "4", "", [4], {}, None, True, 10**12],
    float: [-1.0, 0, NAN, math.inf, -math.inf, "1.15", [1.15], {}, None, True],
    str: ["nope", "", 5, NAN, ["silu"], {}, None, True],
    list: [5, -1, "x", {}, None, True, [NAN], [[]], ["nope"], [-1], []],
    type(None): ["nope", {}, NAN, [NAN]],
}
"""By the type of the value that a sound configuration has."""

BOOKKEEPING = {"architectures", "dtype", "transformers_version"}
RIGHT: dict[str, list[Any]] = {
    # zero is what these are, or an allowed end of a range
    "freq_shift": [0], "dropout": [0], "dropout_rate": [0], "classifier_dropout": [0],
    "steps_offset": [0], "pad_token_id": [0, None], "beta_start": [0],
    # zero changes nothing in inference: no weights are drawn, nothing is clipped, an epsilon of T5
    "initializer_factor": [0], "layer_norm_epsilon": [0], "clip_sample_range": [0],
    "sample_max_value": [0],
    # null and 0 are none, and T5's configuration may list several ends or have no decoder
    "ofs_embed_dim": [0, None], "eos_token_id": [[4], None], "num_decoder_layers": [0, None],
    "patch_size_t": [None], "out_channels": [None],
    # `dense_act_fn` and `is_gated_act` stand beside it, and decide
    "feed_forward_proj": ["nope", ""],
    # Diffusers keeps it, and never reads it
    "force_upcast": [],
}  # fmt: skip
"""Values of `WRONG` that a key may have."""


def _known(folder: Path, component: str) -> dict[str, Any]:
    """The settings of a component that its class reads."""
    library, name = json.loads((folder / "model_index.json").read_text())[component]
    kind = getattr({"diffusers": diffusers, "transformers": transformers}[library], name)
    values = json.loads(config_file(folder, component).read_text())
    found = accepted(getattr(kind, "config_class", kind), values)
    return {key: value for key, value in found.items() if key not in BOOKKEEPING}


def _is_right(key: str, value: Any) -> bool:
    return any(value is right or value == right != True for right in RIGHT.get(key, []))  # noqa: E712


@pytest.mark.parametrize("model", ["micro-2b", "micro-1.5-5b-i2v"])
@pytest.mark.parametrize("component", [*PARTS, "scheduler"])
def test_every_wrong_setting_is_refused(model: str, component: str, tmp_path: Path) -> None:
    folder = copied(model, tmp_path / "model")
    file = config_file(folder, component)
    sound = file.read_text()
    asked = [
        (key, wrong)
        for key, value in _known(folder, component).items()
        for wrong in WRONG[type(value)]
        if not _is_right(key, wrong)
    ]
    assert len(asked) > 100
    problems: list[str] = []
    for key, value in asked:
        file.write_text(json.dumps(json.loads(sound) | {key: value}))
        try:
            check(folder, component)
            problems.append(f"{key}={value!r} opens")
        except CheckpointError as error:
            if str(folder) not in str(error) or "\n" in str(error):
                problems.append(f"{key}={value!r}: {error}")
        except Exception as error:
            problems.append(f"{key}={value!r}: {type(error).__name__}: {error}")
    assert not problems, f"{len(problems)} of {len(asked)}:\n" + "\n".join(problems)


@pytest.mark.parametrize("model", MODELS)
def test_the_micro_models_are_sound(model: str) -> None:
    check(checkpoint_path(model))


def test_right_settings_are_never_refused(tmp_path: Path) -> None:
    folder = copied("micro-2b", tmp_path / "model")
    for component, key, value in (
        ("transformer", "dropout", 0), ("transformer", "ofs_embed_dim", 0),
        ("transformer", "norm_eps", 1e-7), ("vae", "temporal_compression_ratio", 4.0),
        ("vae", "scaling_factor", 1), ("vae", "shift_factor", -0.5), ("vae", "of_a_later_version", "x"),
        ("scheduler", "beta_schedule", "linear"), ("scheduler", "snr_shift_scale", 1),
        ("text_encoder", "n_positions", -1), ("text_encoder", "num_decoder_layers", None),
    ):  # fmt: skip
        file = config_file(folder, component)
        sound = file.read_text()
        change_settings(file, **{key: value})
        check(folder)
        file.write_text(sound)


def _classes() -> list[type]:
    names = [n for n in dir(diffusers) if n.endswith(("Model", "Scheduler")) or "Autoencoder" in n]
    found = [getattr(diffusers, name) for name in names]
    return [kind for kind in found if isinstance(kind, type) and hasattr(kind, "from_config")]


def test_no_class_of_diffusers_is_refused_its_own_defaults(tmp_path: Path) -> None:
    """What `save_pretrained` writes of a model that sets nothing, for every model and scheduler."""
    classes, counted = _classes(), 0
    for kind in classes:
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(kind.__init__).parameters.items()
            if name != "self" and parameter.default is not parameter.empty
        }
        written = json.loads(json.dumps(defaults, default=str))
        check_settings(tmp_path, written, kind, nonzero=not kind.__name__.endswith("Scheduler"))
        counted += len(written)
    assert len(classes) > 150 and counted > 2500


PUBLISHED: list[tuple[str, dict[str, Any]]] = [
    ("CogVideoXTransformer3DModel", {
        "num_attention_heads": 48, "attention_head_dim": 64, "in_channels": 32, "num_layers": 42,
        "ofs_embed_dim": 512, "patch_bias": False, "patch_size_t": 2, "sample_frames": 81,
        "sample_height": 300, "sample_width": 300, "use_rotary_positional_embeddings": True}),
    ("AutoencoderKLCogVideoX", {
        "block_out_channels": [128, 256, 256, 512], "force_upcast": True, "scaling_factor": 0.7,
        "latents_mean": None, "shift_factor": None, "sample_size": 256}),
    ("WanTransformer3DModel", {
        "patch_size": [1, 2, 2], "image_dim": None, "added_kv_proj_dim": None, "num_layers": 30}),
    ("AutoencoderKLWan", {"dim_mult": [1, 2, 4, 4], "attn_scales": [], "latents_mean": [-0.7571] * 16}),
    ("UniPCMultistepScheduler", {
        "disable_corrector": [], "flow_shift": 3.0, "prediction_type": "flow_prediction",
        "solver_p": None, "sigma_max": None, "shift_terminal": None, "use_flow_sigmas": True,
        "solver_type": "midpoint", "lambda_min_clipped": -math.inf}),
    ("LTXVideoTransformer3DModel", {"caption_channels": 4096, "qk_norm": "rms_norm_across_heads"}),
    ("AutoencoderKLLTXVideo", {
        "block_out_channels": [128, 256, 512, 1024, 2048], "layers_per_block": [4, 6, 6, 2, 2],
        "down_block_types": ["LTXVideo095DownBlock3D"] * 4, "timestep_conditioning": True,
        "spatio_temporal_scaling": [True, True, True, True], "scaling_factor": 1.0}),
    ("FlowMatchEulerDiscreteScheduler", {
        "base_image_seq_len": 1024, "base_shift": 0.95, "max_shift": 2.05, "shift": 1.0,
        "shift_terminal": 0.1, "use_dynamic_shifting": True}),
    ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -math.inf, "variance_type": None}),
]  # fmt: skip
"""What the published folders of three families set otherwise than the classes do."""


@pytest.mark.parametrize(("name", "values"), PUBLISHED, ids=[name for name, _ in PUBLISHED])
def test_published_settings_are_never_refused(name: str, values: dict[str, Any]) -> None:
    kind = getattr(diffusers, name)
    check_settings(Path("x"), values, kind, nonzero=not name.endswith("Scheduler"))


@pytest.mark.parametrize(
    ("component", "key", "instead"),
    [("transformer", "num_layers", "num_layer"), ("vae", "scaling_factor", "scaling_facter"),
     ("scheduler", "prediction_type", "predicton_type"), ("text_encoder", "num_heads", "num_head")],
)  # fmt: skip
def test_a_misspelt_key_is_named(component: str, key: str, instead: str, tmp_path: Path) -> None:
    file = config_file(copied("micro-5b", tmp_path / "model"), component)
    values = json.loads(file.read_text())
    values[instead] = values.pop(key)
    file.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"no `{instead}`.*did you mean '{key}'"):
        check(tmp_path / "model")


# --- SAT's own layout


SAT_WRONG: list[tuple[str, Any]] = [
    ("scale_factor", 0), ("scale_factor", NAN), ("scale_factor", "1.15"), ("scale_factor", -0.7),
    ("network_config.params.num_layers", -1), ("network_config.params.num_layers", NAN),
    ("network_config.params.hidden_size", 65), ("network_config.params.num_attention_heads", 0),
    ("network_config.params.transformer_args.layernorm_epsilon", -1e-5),
    ("network_config.params.modules.pos_embed_config.params.height_interpolation", 0),
    ("first_stage_config.params.decoder_config.params.ch_mult", [1, "2"]),
    ("first_stage_config.params.decoder_config.params.ch_mult", []),
    ("first_stage_config.params.encoder_config.params.ch_mult", [1, -2, 2, 4]),
    ("denoiser_config.params.discretization_config.params.shift_scale", NAN),
    ("denoiser_config.params.discretization_config.params.linear_start", 0.5),
    ("denoiser_config.params.discretization_config.params.linear_end", 1.5),
    ("sampler_config.params.guider_config.params.scale", NAN),
    ("sampler_config.params.guider_config.params.exp", 0),
    ("sampler_config.params.num_steps", True),
]  # fmt: skip


def test_wrong_settings_of_a_sat_model(tmp_path: Path) -> None:
    convert(checkpoint_path("micro-2b"), tmp_path / "sat", "sat")
    file = next((tmp_path / "sat").glob("*.yaml"))
    sound = file.read_text()
    read_config(file)
    for path, value in SAT_WRONG:
        document = yaml.safe_load(sound)
        *above, key = path.split(".")
        place = document["model"]
        for step in above:
            place = place[step]
        place[key] = value
        file.write_text(yaml.safe_dump(document))
        with pytest.raises(CheckpointError, match=key):
            read_config(file)


# --- as a user meets them


@pytest.mark.parametrize(
    ("component", "key", "value", "candidate"),
    [
        ("transformer", "num_layers", -1, "diffusers_model_offload"),
        ("vae", "scaling_factor", NAN, "sat"),
        ("vae", "scaling_factor", 0, "sat"),
        ("scheduler", "prediction_type", "nope", "sat"),
        ("text_encoder", "d_model", "64", "sat"),
        ("transformer", "patch_size", [2], "diffusers_group_offload_leaf"),
    ],
)
def test_from_the_command_line(
    component: str,
    key: str,
    value: Any,
    candidate: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = copied("micro-2b", tmp_path / "model")
    change_settings(config_file(folder, component), **{key: value})
    monkeypatch.chdir(tmp_path)
    line = ["run", "case=[micro_2b_quick]", f"candidate=[{candidate}]", "metrics=[psnr]",
            f"cases.micro_2b_quick.model={folder}"]  # fmt: skip
    assert main(line) == 2
    shown = capfd.readouterr()
    said = " ".join((shown.out + shown.err).split())
    assert "Traceback" not in said and "defect of parity" not in said
    assert said.count(f"`{key}` is {value!r}; expected") == 1, said
