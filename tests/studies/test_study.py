"""Studies: how the runs are laid out, addressed and printed, and what a study that was stopped or failed ends with."""

from __future__ import annotations

import csv
import os
import shlex
import signal
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pldistill.__main__ import main
from pldistill.launch import Interrupted
from pldistill.methods import METHODS
from pldistill.recipe import Recipe
from pldistill.studies import STUDIES, find_study
from pldistill.studies.cifar import PUBLISHED, RIVALS
from pldistill.studies.paper import published
from pldistill.studies.runner import commands, compare, failure, mark_failure, reproduce
from pldistill.studies.study import Plan, plan, recipe_hash
from pldistill.training.progress import StudyProgress

TABLE1 = STUDIES["table1"]
# Models that take no time, for what is not about the models.
SMALL = replace(TABLE1, pairs={"resnet56-resnet20": ("resnet8", "resnet8")})


def lay_out(out: Path, **given: Any) -> Plan:
    return plan(SMALL, out=out, **{"scale": "smoke", "rows": ("ce", "kd", "pld"), **given})


def callback() -> StudyProgress:
    return StudyProgress(Console(file=StringIO()))


def test_full_plan_is_the_published_table() -> None:
    full = plan(TABLE1, out=Path("out"), data="cifar100:data", rows=PUBLISHED)
    assert len(full.cells) == 11 * 4 * 3
    assert list(full.columns) == published("table1")["columns"]
    assert set(full.rows) == set(published("table1")["rows"])
    assert len(full.teachers) == 4
    assert {cell.recipe.epochs for cell in full.cells} == {250}
    assert {cell.recipe.weight_decay for cell in full.cells} == {0.5}
    betas = {cell.column: cell.recipe.options["beta"] for cell in full.cells if cell.row == "dkd"}
    assert betas == {
        "wrn_40_2-wrn_40_1": 6,
        "resnet56-resnet20": 2,
        "resnet32x4-resnet8x4": 8,
        "resnet50-mobilenetv2": 8,
    }


def test_the_other_recipe_is_the_community_s() -> None:
    full = plan(STUDIES["cifar100-sgd"], out=Path("out"), data="cifar100:data", seeds=1)
    rates = {cell.column: cell.recipe.lr for cell in full.cells}
    assert rates.pop("resnet50-mobilenetv2") == 0.01
    assert set(rates.values()) == {0.05}
    assert {cell.recipe.lr for cell in full.teachers} == {0.05}
    assert {(cell.recipe.epochs, cell.recipe.batch_size, cell.recipe.schedule) for cell in full.cells} == {
        (240, 64, "step")
    }


def test_the_other_recipe_has_the_logit_methods_of_other_papers() -> None:
    full = plan(STUDIES["cifar100-sgd"], out=Path("out"), data="cifar100:data", seeds=1)
    assert set(full.rows) == {*TABLE1.rows, *RIVALS}
    kinds = {cell.row: cell.recipe for cell in full.cells}
    assert {row: recipe.method for row, recipe in kinds.items() if row in RIVALS} == {
        **{row: row for row in RIVALS if row in METHODS},
        "kd-standardized": "kd",
        "dkd-standardized": "dkd",
    }
    standardized = kinds["kd-standardized"]
    assert standardized.options == {**METHODS["kd"].options, "standardize": "both", "temperature": 2.0}
    assert standardized.weights == {"task": 0.1, "kd": 9.0}
    betas = {cell.column: cell.recipe.options["beta"] for cell in full.cells if cell.row == "dkd-standardized"}
    assert betas["wrn_40_2-wrn_40_1"] == 54
    assert betas["resnet56-resnet20"] == 18
    assert kinds["dkd-standardized"].options["alpha"] == 9
    assert kinds["dkd-standardized"].options["standardize"] == "both"
    assert kinds["nkd"].options == {"gamma": 3.5, "temperature": 3.0}
    assert not set(RIVALS) & set(TABLE1.rows)


def test_short_scale_narrows_the_students_images_alone() -> None:
    short = plan(TABLE1, out=Path("out"), data="cifar100:data", scale="short", validation=5000)
    assert short.columns == ("resnet56-resnet20",)
    assert {cell.recipe.data for cell in short.cells} == {"cifar100:data,validation=5000,train=10000"}
    assert short.teachers[0].recipe.data == "cifar100:data,validation=5000"
    assert short.label


@pytest.mark.parametrize(
    ("scale", "given", "label"),
    [
        ("full", {"data": "cifar100:/a/b"}, ""),
        ("full", {"data": "cifar100:/a/b", "validation": 5000}, "other images: cifar100,validation=5000"),
        ("full", {"data": "cifar100:/a/b,train=500"}, "other images: cifar100,train=500"),
        ("full", {"data": "glyphs"}, "other images: glyphs"),
        ("smoke", {}, TABLE1.scales["smoke"].label),
        ("short", {"data": "digits"}, TABLE1.scales["short"].label + "; other images: digits"),
    ],
)
def test_what_is_not_the_published_protocol_is_labelled(scale: str, given: dict[str, Any], label: str) -> None:
    assert plan(TABLE1, out=Path("out"), scale=scale, rows=("ce",), **given).label == label


def test_a_scale_multiplies_every_weight() -> None:
    swept = plan(TABLE1, out=Path("out"), data="cifar100:data", validation=5000, sweep=(1, 4), rows=("kd", "dkd"))
    weights = {(cell.row, cell.scale): cell.recipe.weights for cell in swept.cells}
    assert weights["kd", 4] == {"task": pytest.approx(0.4), "kd": pytest.approx(3.6)}
    assert weights["dkd", 1]["dkd"].to == 1.0  # type: ignore[union-attr]
    assert weights["dkd", 4]["dkd"].to == 4.0  # type: ignore[union-attr]
    assert weights["dkd", 4]["dkd"].over == weights["dkd", 1]["dkd"].over  # type: ignore[union-attr]


def test_address_is_of_what_is_computed(tmp_path: Path) -> None:
    here, there = lay_out(tmp_path / "a"), lay_out(tmp_path / "b")
    assert [cell.folder.name for cell in here.cells] == [cell.folder.name for cell in there.cells]
    elsewhere = (plan(TABLE1, out=tmp_path, data=f"cifar100:{place}") for place in ("/a/b", "c,d"))
    first, second = ([cell.folder for cell in layout.cells] for layout in elsewhere)
    assert first == second
    assert len(set(first)) == len(first)
    cell, teacher = here.cells[1], here.teachers[0].recipe
    other = cell.recipe.model_copy(update={"options": {**cell.recipe.options, "temperature": 2.0}})
    longer = teacher.model_copy(update={"epochs": 9})
    assert len({recipe_hash(cell.recipe, teacher), recipe_hash(other, teacher), recipe_hash(cell.recipe, longer)}) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": "huge"}, "scale"),
        ({"pairs": ["resnet56-resnet21"]}, "resnet56-resnet20"),
        ({"rows": ["pdl"]}, "pld"),
        ({"sweep": (2.0,)}, "--validation"),
        ({"scale": "full"}, "cifar100:PATH"),
    ],
)
def test_bad_names_are_named(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lay_out(tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_unknown_study() -> None:
    with pytest.raises(ValueError, match="table1"):
        find_study("table2000")


def test_printed_commands_train_the_same_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = plan(STUDIES["cifar100-sgd"], out=tmp_path, data="cifar100:a b", seeds=1, sweep=(2,), validation=500)
    taken: list[tuple[Recipe, Path]] = []

    def take(recipe: Recipe, *, out: Path, **_: Any) -> None:
        taken.append((recipe, out))
        raise ValueError("taken")

    monkeypatch.setattr("pldistill.training.run.train", take)
    lines = [line for line in commands(layout) if line]
    for line in lines:
        name, *arguments = shlex.split(line)
        assert name == "pldistill"
        with pytest.raises(SystemExit):
            main(arguments)
    cells = list(layout.runs)
    assert taken == [(cell.recipe, cell.folder) for cell in cells]


def test_study_stopped_and_started_again_ends_with_the_same_table(tmp_path: Path) -> None:
    class Stop(StudyProgress):
        """Asks the third run to stop after its first epoch."""

        runs = 0

        def begin(self, title: str, epochs: int, done: int, batches: int) -> None:
            self.runs += 1
            super().begin(title, epochs, done, batches)

        def epoch(self, row: dict[str, Any]) -> None:
            if self.runs == 3:
                os.kill(os.getpid(), signal.SIGINT)
            super().epoch(row)

    setting = {"epochs": 2, "batch_size": 50, "trust_teacher": True}
    longer = replace(SMALL, scales={"smoke": replace(SMALL.scales["smoke"], setting=setting)})
    tables = {}
    for name in ("whole", "stopped"):
        layout = plan(longer, out=tmp_path / name, scale="smoke", rows=("ce", "kd", "pld"), seeds=2)
        if name == "stopped":
            with pytest.raises(Interrupted):
                reproduce(layout, tmp_path / name, callback=Stop(Console(file=StringIO())), device="cpu")
            done = [cell.record.finished for cell in layout.cells]
            assert done == [True, False, False, False, False, False]
            assert "1/2" in (tmp_path / name / "table1.md").read_text(encoding="utf-8")
        reproduce(layout, tmp_path / name, callback=callback(), device="cpu")
        tables[name] = _without_times((tmp_path / name / "table1.csv").read_text(encoding="utf-8"))
        assert (tmp_path / name / "table1.html").is_file()
    assert tables["whole"] == tables["stopped"]
    assert [row["n"] for row in tables["whole"]] == ["2", "2", "2"]


def _without_times(text: str) -> list[dict[str, str]]:
    rows = csv.DictReader(StringIO(text))
    return [{key: value for key, value in row.items() if key != "seconds_mean"} for row in rows]


def test_a_failed_cell_is_marked_and_the_others_go_on(tmp_path: Path) -> None:
    rows: Mapping[str, Any] = {"fitnet": {"method": "fitnet", "options": {"layer": 9}}, "pld": {"method": "pld"}}
    layout = plan(replace(SMALL, rows=rows), out=tmp_path, scale="smoke")
    comparison = reproduce(layout, tmp_path, callback=callback(), device="cpu")
    broken, sound = layout.cells
    assert "layer" in str(failure(tmp_path, broken))
    assert not broken.record.finished
    assert sound.record.finished
    assert "failed" in (tmp_path / "table1.md").read_text(encoding="utf-8")
    assert [len(entry.failures) for entry in comparison.entries] == [1, 0]


def test_a_failure_that_is_over_leaves_no_mark(tmp_path: Path) -> None:
    """A disk can be full just after a run's last row: the run is finished, and its mark goes with the next call."""
    layout = plan(replace(SMALL, rows={"ce": {"method": "ce"}}), out=tmp_path, scale="smoke")
    reproduce(layout, tmp_path, callback=callback(), device="cpu")
    (cell,) = layout.cells
    mark = tmp_path / "failures" / f"{cell.folder.name}.txt"
    mark_failure(mark, OSError("no room"))
    reproduce(layout, tmp_path, callback=callback(), device="cpu")
    assert not mark.exists()


def test_failed_teacher_fails_its_students_and_no_others(tmp_path: Path) -> None:
    two = {"resnet56-resnet20": ("no_such_model", "resnet8"), "wrn_40_2-wrn_40_1": ("resnet8", "resnet8")}
    layout = plan(replace(SMALL, pairs=two), out=tmp_path, scale="smoke", rows=("ce", "pld"))
    reproduce(layout, tmp_path, callback=callback(), device="cpu")
    state = {(cell.column, cell.row): cell.record.finished for cell in layout.cells}
    assert state == {
        ("resnet56-resnet20", "ce"): True,
        ("resnet56-resnet20", "pld"): False,
        ("wrn_40_2-wrn_40_1", "ce"): True,
        ("wrn_40_2-wrn_40_1", "pld"): True,
    }
    assert "no_such_model" in str(failure(tmp_path, layout.teachers[0]))


def test_runs_made_by_others_are_merged(tmp_path: Path) -> None:
    layout = lay_out(tmp_path)
    for line in filter(None, commands(layout)):
        with pytest.raises(SystemExit) as left:
            main([*shlex.split(line)[1:], "--device", "cpu"])
        assert left.value.code == 0
    assert all(entry.records and entry.records[0].finished for entry in compare(layout, tmp_path).entries)
    began = {cell.folder: cell.record.read_environment()["started"] for cell in layout.cells}
    reproduce(layout, tmp_path, callback=callback(), device="cpu")
    assert began == {cell.folder: cell.record.read_environment()["started"] for cell in layout.cells}


def test_every_cell_of_table_1_runs(tmp_path: Path) -> None:
    """Eleven methods and our own on four pairs, two steps each."""
    layout = plan(TABLE1, out=tmp_path, scale="smoke")
    comparison = reproduce(layout, tmp_path, callback=callback(), device="cpu")
    assert [entry.failures for entry in comparison.entries if entry.failures] == []
    assert len(comparison.entries) == 13 * 4
    assert all(entry.records[0].finished for entry in comparison.entries)
