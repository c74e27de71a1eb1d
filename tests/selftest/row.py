"""What one row of the catalogue is: a planted fault, or a healthy change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from harness.records import Component, VerdictName
from tests.selftest.setting import Setting

SecondRender = Literal["same", "other_seed", "other_prompt"]
Planted = Literal["patch", "options"]


@dataclass(frozen=True)
class Fault:
    """One defect and where it is live.

    `id` is also the patch's name where it is `planted` by one; a fault of `options` sets the
    candidate's instead. `settings` are the pairs it is meant for. `overrides` composes the first, in
    which it is proven live, in float32 (`tests/selftest/LIVENESS.md` says which others were measured
    too); `at` chooses another.

    What a detector should say: `component`, or one of `also` where a defect lies on the border;
    `block`, a prefix of the canonical module name of the *first* module that is wrong; `config_key`,
    the setting that is wrong, under the identity's or the case's name; one of `expected` as verdict.
    `second_render` marks a fault that only shows in the process's second render and says what that
    one must be; `further` are overrides of the run without which it would not show. `field` is the id
    of the collected real defect that it re-creates, if there is one.
    """

    id: str
    kind: str
    summary: str
    component: Component
    settings: tuple[Setting, ...]
    plugin: str | None
    planted: Planted = "patch"
    also: tuple[Component, ...] = ()
    block: str | None = None
    config_key: str | None = None
    second_render: SecondRender | None = None
    field: str | None = None
    expected: tuple[VerdictName, ...] = ("bug",)
    options: tuple[str, ...] = ()
    further: tuple[str, ...] = ()

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides of the run on the first of `settings`."""
        patch = () if self.planted == "options" else (f"patch={self.id}",)
        return (*self.setting.overrides(*self.options, *patch), *self.further)

    @property
    def setting(self) -> Setting:
        """The pair that it is judged on."""
        return self.settings[0]

    def at(self, setting: Setting) -> Fault:
        """The same fault, run on `setting`."""
        return replace(self, settings=(setting,))


@dataclass(frozen=True)
class Healthy:
    """A configuration without a defect; `acceptable` are the verdicts that are right for it.

    `bug` and `broken` are false alarms. `setting` is the pair, changed by `patch` or `options` on the
    candidate's side and by `further` overrides of the run. `field` is the id of the collected healthy
    change that it re-creates, if there is one.
    """

    id: str
    kind: str
    summary: str
    setting: Setting
    acceptable: tuple[VerdictName, ...]
    plugin: str | None = None
    patch: str | None = None
    options: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    field: str | None = None

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides of its run: `options` are the candidate's, `further` those of anything else."""
        patch = () if self.patch is None else (f"patch={self.patch}",)
        return (*self.setting.overrides(*self.options, *patch), *self.further)
