"""Scheduler, objective and power cap: where they come from, which exclude each other, what lack of room does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from cimc import models
from cimc.backends.isaac import BACKEND
from cimc.backends.protocol import BaseBackend, Stage
from cimc.compiler import CompileOptions, build
from cimc.diagnostics import DoesNotFitError, UsageError
from cimc.mapping_options import MappingOptions, load_mapping, replaced
from cimc.passes.schedule.copies.stage_costs import stages_of

IMAGES = {"x": models.images(2, models.network("digits").shape, seed=1)}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network."""
    return models.export_onnx("digits", tmp_path_factory.mktemp("models") / "digits.onnx")


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, "cimc"),
        ({"copies": 1}, "none"),
        ({"scheduler": "polyxb"}, "polyxb"),
        ({"scheduler": "none"}, "none"),
    ],
)
def test_the_default_is_ours_unless_copies_are_given(given: dict[str, object], chosen: str) -> None:
    """A number of copies for all switches the scheduler off; a scheduler that is named runs."""
    assert MappingOptions.model_validate(given).chosen_scheduler == chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "scheduler: polyxb\nobjective: latency\n",
            r":2:12: objective: belongs to scheduler: cimc, given polyxb",
        ),
        ("copies: 2\npower_cap_mw: 9\n", r":2:15: power_cap_mw: belongs to scheduler: cimc, given none"),
        ("power_cap_mw: 0\n", r":1:15: power_cap_mw: must be greater than 0, given 0"),
        ("stagger_slack: 0.1\n", r":1:16: stagger_slack: belongs to stagger: true"),
    ],
)
def test_objectives_belong_to_our_scheduler(tmp_path: Path, text: str, message: str) -> None:
    """The error names line, rule, value and remedy."""
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_mapping(tmp_path / "m.yaml")


def test_the_command_line_replaces_the_mapping() -> None:
    """Values given win, ``None`` leaves the mapping's, and the rules hold for both together."""
    mapping = MappingOptions(scheduler="polyxb", weight_bits=4)
    both = replaced(mapping, {"scheduler": "cimc", "objective": "energy", "power_cap_mw": None})
    assert (both.scheduler, both.objective, both.weight_bits) == ("cimc", "energy", 4)
    assert replaced(mapping, {"scheduler": None}) is mapping
    with pytest.raises(UsageError, match="objective: belongs to scheduler: cimc, given polyxb"):
        replaced(mapping, {"objective": "energy"})


@dataclass(frozen=True)
class Refuse(ModulePass):
    """A placement that finds no room for more than ``most`` copies in all."""

    name = "refuse"
    most: int = 0

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Raise like ``place-contexts``."""
        if sum(stage.copies.value.data for stage in stages_of(op)) > self.most:
            raise DoesNotFitError("no core is left")


@dataclass(frozen=True)
class Narrow(BaseBackend):
    """The reference machine with that placement behind the compiler's own."""

    most: int = 0

    def extra_passes(self) -> tuple[tuple[Stage, ModulePass], ...]:
        """One pass of the stage ``place``."""
        return (("place", Refuse(self.most)),)


def test_schedules_without_room_get_fewer_crossbars(digits: Path) -> None:
    """Placement that fails makes the scheduler try with fewer crossbars, down to one copy each; then it is an error."""

    def copies(most: int, **mapping: object) -> list[int]:
        backend = Narrow(BACKEND.yaml, most)
        options = CompileOptions(mapping=MappingOptions.model_validate(mapping), calibration=IMAGES)
        made = build(digits, backend.architecture(), backend, options)
        return [stage.copies.value.data for stage in stages_of(made.modules["mapped"])]

    free = copies(10**6)
    least = len(free)
    assert sum(free) > least
    assert copies(least) == [1] * least
    with pytest.raises(DoesNotFitError, match="no core is left"):
        copies(least - 1)
    with pytest.raises(DoesNotFitError, match="no core is left"):
        copies(least, copies=2)
