"""What ships composes, from wherever it is run, and means what it says."""

from pathlib import Path

import pytest

import harness
from harness.audit.hazards import hazards
from harness.config.compose import compose_tree
from harness.config.config import RunConfig, build
from harness.config.folders import choices, conf_folders, shipped_folder
from harness.errors import ConfigError

SHIPPED = conf_folders(None)
FACTORS = ("text", "unconditional", "schedule", "latent_dtype", "image")


def configure(*settings: str, folders: list[Path] = SHIPPED) -> RunConfig:
    return build(compose_tree(settings, folders))


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        (group, choice)
        for group in ("case", "candidate", "reference", "match", "metrics", "experiment", "judge",
                      "trace")
        for choice in choices(group, SHIPPED)
    ],
)  # fmt: skip
def test_every_shipped_choice_composes(group: str, choice: str) -> None:
    several = group in ("case", "candidate")
    # A candidate may not have the reference's name.
    settings = ["reference.name=other"] if choice == "diffusers" or choice == "sat" else []
    config = configure(f"{group}=[{choice}]" if several else f"{group}={choice}", *settings)
    if several:
        names = {case.name for case in config.cases} | {spec.name for spec in config.candidates}
        assert choice in names


@pytest.mark.parametrize("backend", choices("backend", SHIPPED))
def test_every_backend_can_be_added_as_a_candidate(backend: str) -> None:
    config = configure(f"+backend@candidates.another={backend}")
    assert config.candidates[-1].name == "another"
    assert config.candidates[-1].backend == backend
    assert config.candidates[-1].match == config.match


def test_the_defaults_share_everything_and_keep_options_apart() -> None:
    config = configure()
    assert config.match.share == FACTORS
    assert config.reference.backend == "diffusers"
    assert config.reference.options["dtype"] == "float32"
    assert not {"backend", "patch", "python", "threads", "name"} & set(config.reference.options)
    assert config.seeds == (0,)
    assert (config.store, config.results) == (Path("results/store"), Path("results"))


def test_a_candidate_may_have_a_match_of_its_own() -> None:
    config = configure("candidate=[sat,sat_native]")
    shared, native = config.candidates
    assert shared.match.share == FACTORS
    assert native.match.share == ()
    assert "match" not in native.options


def test_a_candidates_match_completes_itself_from_the_runs() -> None:
    config = configure("match.text=own", "candidates.sat.match={schedule: own}")
    assert config.candidates[0].match.share == ("unconditional", "latent_dtype", "image")


def test_one_factor_is_changed_by_itself() -> None:
    rest = tuple(factor for factor in FACTORS if factor != "schedule")
    assert configure("match.schedule=own").match.share == rest
    assert configure("match=native", "match.text=shared").match.share == ("text",)


def test_values_of_one_variant_do_not_reach_another() -> None:
    config = configure("reference.dtype=bfloat16", "candidates.sat.threads=1")
    assert config.reference.options["dtype"] == "bfloat16"
    assert config.candidates[0].options["dtype"] == "float32"
    assert (config.reference.threads, config.candidates[0].threads) == (None, 1)


def test_a_single_seed_needs_no_brackets() -> None:
    assert configure("seeds=7").seeds == (7,)


def test_the_recommended_settings_of_the_published_models() -> None:
    small, large = configure("case=[cogvideox_2b,cogvideox_5b]").cases
    assert (small.model, small.sampler, small.dynamic_guidance) == (
        "THUDM/CogVideoX-2b", "ddim", False,
    )  # fmt: skip
    assert (large.model, large.sampler, large.dynamic_guidance) == (
        "THUDM/CogVideoX-5b", "dpm", True,
    )  # fmt: skip
    for case in (small, large):
        assert (case.frames, case.height, case.width, case.fps, case.steps) == (49, 480, 720, 8, 50)
        assert case.guidance_scale == 6.0


def test_the_recommended_settings_of_the_newer_models() -> None:
    cases = configure("case=[cogvideox_5b_i2v,cogvideox_1_5_5b,cogvideox_1_5_5b_i2v]").cases
    shapes = [(c.frames, c.height, c.width, c.fps, c.image is not None) for c in cases]
    assert shapes == [
        (49, 480, 720, 8, True), (81, 768, 1360, 16, False), (81, 768, 1360, 16, True),
    ]  # fmt: skip
    for case in cases:
        assert (case.sampler, case.steps, case.guidance_scale) == ("dpm", 50, 6.0)


def test_the_demo_has_every_placement_and_both_matches_of_sat() -> None:
    config = configure("experiment=demo")
    names = {candidate.name for candidate in config.candidates}
    assert {name for name in choices("candidate", SHIPPED) if "offload" in name} <= names
    assert {"sat", "sat_native"} <= names
    assert {case.model for case in config.cases} == {"micro-2b", "micro-5b"}
    assert configure("experiment=demo", "match=native").match.share == ()


def test_dynamic_guidance_with_ddim_is_a_hazard_and_not_an_error() -> None:
    config = configure("cases.micro_2b_quick.dynamic_guidance=true")
    (hazard,) = hazards(config)
    assert "dynamic guidance" in hazard.detail
    assert hazards(configure("case=[micro_2b,micro_5b]")) == []


def test_files_of_the_user_add_to_the_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my conf, isn't it"
    (folder / "case").mkdir(parents=True)
    shipped = SHIPPED[0] / "case" / "micro_2b.yaml"
    text = shipped.read_text().replace("cases.micro_2b", "cases.mine").replace("50", "20")
    (folder / "case" / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    config = configure("case=[mine,micro_5b]", folders=conf_folders(folder))
    assert [case.name for case in config.cases] == ["mine", "micro_5b"]
    assert config.cases[0].steps == 20


def test_the_configuration_of_an_installed_package_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harness" / "conf").mkdir(parents=True)
    (tmp_path / "conf").mkdir()
    monkeypatch.setattr(harness, "__file__", str(tmp_path / "harness" / "__init__.py"))
    assert shipped_folder() == tmp_path / "harness" / "conf"
    (tmp_path / "harness" / "conf").rmdir()
    assert shipped_folder() == tmp_path / "conf"
    (tmp_path / "conf").rmdir()
    with pytest.raises(ConfigError, match="install the project again"):
        shipped_folder()


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        conf_folders(tmp_path / "nowhere")


def test_a_configuration_survives_the_record_of_its_run() -> None:
    config = configure("experiment=demo")
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
