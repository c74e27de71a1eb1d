"""The catalogue is well-formed: what a row names exists, and what it says can be composed."""

import inspect
from collections import Counter
from dataclasses import fields
from functools import cache
from typing import get_args

import pytest
from diffusers import CogVideoXTransformer3DModel

from backends import registry
from backends.base import Case, Pipeline
from backends.worker import patches
from harness.records import Component, VerdictName
from tests.selftest.catalogue import faults, healthy, pairs
from tests.selftest.choose import choose
from tests.selftest.faults.pairs import PAIRS
from tests.selftest.liveness import TABLE, composed, harmless, place, settings_of
from tests.selftest.row import Fault, Healthy
from tests.selftest.setting import Model

ROWS: tuple[Fault | Healthy, ...] = (*faults(), *healthy())


@cache
def opened(model: str) -> Pipeline:
    return registry.load("diffusers").open(model, {"device": "cpu"})


@cache
def names(model: str) -> tuple[str, ...]:
    return tuple(opened(model).modules())


@cache
def configs(model: str) -> frozenset[str]:
    return frozenset(opened(model).identity().configs)


def test_there_are_enough_rows() -> None:
    assert len(faults()) >= 110 and len(healthy()) >= 110 and len(pairs()) >= 20
    assert sum(fault.settings[0].backend == "sat" for fault in faults()) >= 25
    assert sum(fault.field is None for fault in faults()) >= 40, "inventions of our own"
    assert {fault.component for fault in faults()} >= set(get_args(Component))
    first = Counter((f.settings[0].model, f.settings[0].dtype) for f in faults())
    for model in ("micro-2b", "micro-5b"):
        assert min(first[model, "float32"], first[model, "bfloat16"]) >= 10


def test_the_main_kinds_span_all_five_models() -> None:
    for kinds in (
        ("attention", "modulation", "blocks"), ("positions",), ("text",), ("schedule",), ("solver",),
        ("guidance",), ("decoder",), ("noise",),
    ):  # fmt: skip
        judged = {f.settings[0].model for f in faults() if f.kind in kinds}
        assert judged == set(get_args(Model)), kinds
    stacks = [row.setting for row in healthy() if row.id.startswith("sat_shared@")]
    assert {setting.model for setting in stacks} == set(get_args(Model))


def test_a_sample_is_even_over_kinds_and_models() -> None:
    chosen = [row for row in choose(None, 60) if isinstance(row, Fault)]
    kinds, every = Counter(f.kind for f in chosen), Counter(f.kind for f in faults())
    assert all(abs(kinds[k] - 60 * n / len(faults())) <= 2 for k, n in every.items())
    models = Counter(f.settings[0].model for f in chosen)
    assert len(models) == 5 and min(models.values()) >= 5


def test_ids_are_unique() -> None:
    counts = Counter(row.id for row in (*ROWS, *pairs()))
    assert [name for name, count in counts.items() if count > 1] == []


def test_every_patch_is_registered_by_its_plugin() -> None:
    for plugin in {row.plugin for row in (*ROWS, *pairs()) if row.plugin is not None}:
        known = set(patches.load_plugin(plugin))
        named = {f.id for f in (*faults(), *pairs()) if f.plugin == plugin}
        named |= {h.patch for h in healthy() if h.plugin == plugin and h.patch is not None}
        assert named - known == set()


def test_every_defect_is_in_the_catalogue() -> None:
    for plugin in {fault.plugin for fault in faults() if fault.plugin is not None}:
        forgotten = set(patches.load_plugin(plugin)) - {fault.id for fault in faults()}
        assert forgotten <= {"attention_processor_rewritten"}, plugin


def test_expectations_are_verdicts() -> None:
    for fault in faults():
        assert set(fault.expected) <= {"bug", "broken"}, fault.id
    for row in healthy():
        assert set(row.acceptable) <= set(get_args(VerdictName)) - {"bug", "broken"}, row.id


def test_blocks_are_canonical_modules() -> None:
    for fault in faults():
        if fault.block is not None:
            setting = fault.settings[0]
            assert any(name.startswith(fault.block) for name in names(setting.model)), fault.id


def test_config_keys_are_those_of_the_identity_the_case_or_what_the_loop_hands_over() -> None:
    handed = inspect.signature(CogVideoXTransformer3DModel.forward).parameters
    for fault in faults():
        if fault.config_key is not None:
            known = {*configs(fault.settings[0].model), *(field.name for field in fields(Case))}
            known |= {"lora.scale"} if fault.kind == "lora" else set()
            known |= set(handed) if fault.component == "loop" else set()
            assert fault.config_key.partition("[")[0] in known, fault.id


def test_every_fault_is_planted() -> None:
    for fault in faults():
        assert (fault.plugin is None) == (fault.planted == "options") == bool(fault.options)


@pytest.mark.parametrize(
    "name",
    [
        "weights_row_lost", "call_negative_prompt_dropped", "schedule_timesteps_floored",
        "offload_position_buffer_not_moved", "sat_decoder_cache_dropped",
        "bf16_against_fp32@diffusers-micro-2b-bf16",
        "sequential_offload@diffusers_offload-micro-5b-bf16", "other_prompt@diffusers-micro-2b-bf16",
        "sat_schedule_own@sat-micro-2b-fp32", "two_threads@diffusers-micro-5b-fp32",
        "frames_gain", "rope_theta+decoder_scaling_factor",
    ],
)  # fmt: skip
def test_rows_compose(name: str) -> None:
    row = next(row for row in (*ROWS, *pairs()) if row.id == name)
    config = composed(tuple(row.overrides))
    (case,), (candidate,) = config.cases, config.candidates
    setting = row.setting if not isinstance(row, Fault) else row.settings[0]
    assert case.model == setting.model and case.sampler == setting.sampler
    assert candidate.backend == setting.backend
    assert candidate.options["dtype"] == setting.dtype
    expected = row.patch if isinstance(row, Healthy) else row.id
    assert candidate.patch == expected


def test_pairs_join_different_components_of_one_model() -> None:
    assert {pair.id for pair in pairs()} == {f"{a}+{b}" for a, b in PAIRS}
    for pair in pairs():
        assert pair.first.component != pair.second.component, pair.id
        for fault in (pair.first, pair.second):
            assert pair.setting.model in {s.model for s in fault.settings}, pair.id


def test_every_row_is_measured_in_its_first_setting() -> None:
    """The table holds right rows only: live faults, and harmless changes below the limit."""
    table = {tuple(row.split(" | ")[:2]): row for row in TABLE.read_text().splitlines()}
    for fault in (*faults(), *harmless()):
        row = table.get((f"| {fault.id}", place(settings_of(fault)[0])))
        assert row is not None, f"{fault.id}: run python -m tests.selftest.liveness"
        assert ("live" in row.split(" | ")[-1]) == (fault.kind != "harmless"), row
