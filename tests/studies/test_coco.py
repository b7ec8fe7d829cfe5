"""Table 7 as a study: its rows and figures, its protocol, the lines it prints, and every cell for two steps."""

from __future__ import annotations

import shlex
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pldistill.__main__ import main
from pldistill.recipe import make_recipe
from pldistill.studies import STUDIES
from pldistill.studies.paper import published
from pldistill.studies.runner import commands, reproduce
from pldistill.studies.study import Plan, plan
from pldistill.tasks.registry import TASKS
from pldistill.training.optim import learning_rate
from pldistill.training.progress import StudyProgress

TABLE7 = STUDIES["table7"]

BOXES = tuple(TASKS["detection"].metrics)


def lay_out(scale: str = "full", **given: Any) -> Plan:
    data = {"full": "coco:/images/coco2017"}.get(scale)
    return plan(TABLE7, out=Path("runs/table7"), scale=scale, **{"data": data, **given})


def test_the_paper_s_six_columns_stand_at_their_rows() -> None:
    known = published("table7")["rows"]
    assert list(TABLE7.pairs) == list(known)
    for pair, rows in known.items():
        for row, figures in rows.items():
            assert TABLE7.published(row, pair) == {
                name: (figure, None) for name, figure in zip(BOXES, figures, strict=True)
            }
        assert TABLE7.published("pld_no_ce", pair) == TABLE7.published("pld", pair)
        assert TABLE7.published("ce", pair) == {}
    assert TABLE7.published("pld", "resnet101>resnet18_fpn")["APs"] == (18.50, None)


def test_the_full_protocol_is_that_of_the_public_code() -> None:
    full = lay_out()
    assert full.label == ""
    assert len(full.cells) == 3 * 4
    assert {cell.models[1] for cell in full.teachers} == {"fasterrcnn:resnet50", "fasterrcnn:resnet101"}
    assert {cell.recipe.method for cell in full.teachers} == {"ce"}
    assert {cell.recipe.epochs for cell in full.teachers} == {36}
    for cell in full.runs:
        recipe = cell.recipe
        assert (recipe.task, recipe.optimizer, recipe.lr, recipe.momentum) == ("detection", "sgd", 0.01, 0.9)
        assert (recipe.weight_decay, recipe.schedule, recipe.pretrained) == (1e-4, "two-step", True)
        assert recipe.batch_size * recipe.accumulate == 8
        options = recipe.task_options
        assert (options["norm"], options["short_sides"], options["max_side"]) == ("frozen", "640-800", 1333)
        assert (options["rois_per_image"], options["positive_fraction"], options["post_nms"]) == (512, 0.25, 1000)
        layers = 5 if recipe.student == "fasterrcnn:mobilenet_v2" else 3
        assert options["trainable_layers"] == layers
    dkd = {"alpha": 1.0, "beta": 0.25, "temperature": 1.0}
    assert all(cell.recipe.options.items() >= dkd.items() for cell in full.cells if cell.row == "dkd")
    weights = {cell.row: cell.recipe.weights["loss_classifier"] for cell in full.cells}
    assert weights == {"ce": 1.0, "dkd": 1.0, "pld": 1.0, "pld_no_ce": 0.0}


def test_the_learning_rate_falls_where_the_public_code_s_does() -> None:
    recipe = lay_out().cells[0].recipe
    steps = 15_000  # an epoch's, so that twelve are 180,000
    rates = [learning_rate(recipe, step, steps) for step in (499, 1000, 119_999, 120_000, 159_999, 160_000, 179_999)]
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


@pytest.mark.parametrize(
    ("data", "label"),
    [
        ("coco:/a/coco", ""),
        ("coco:/a/coco2017", ""),
        ("coco:/a/coco_tiny", "other images: coco:coco_tiny"),
        ("coco:/a/coco,train=100", "other images: coco:coco,train=100"),
    ],
)
def test_other_images_than_coco_s_are_named(data: str, label: str) -> None:
    assert lay_out(data=data).label == label


def test_a_run_s_folder_says_its_models() -> None:
    folders = {cell.folder.parent.name for cell in lay_out().cells if cell.row == "pld"}
    assert folders == {
        "fasterrcnn-resnet50-fasterrcnn-mobilenet_v2",
        "fasterrcnn-resnet101-fasterrcnn-resnet18",
        "fasterrcnn-resnet101-fasterrcnn-resnet50",
    }
    assert {cell.folder.name.rpartition("-")[0] for cell in lay_out().teachers} == {
        "fasterrcnn-resnet50",
        "fasterrcnn-resnet101",
    }


def test_an_address_counts_the_task_s_options_and_leaves_its_defaults_out() -> None:
    from pldistill.studies.study import recipe_hash

    fields: dict[str, Any] = {"task": "detection", "data": "scenes", "student": "fasterrcnn:resnet18", "method": "ce"}
    plain = recipe_hash(make_recipe(fields))
    assert recipe_hash(make_recipe({**fields, "task_options": {"rois_per_image": 512}})) == plain
    assert recipe_hash(make_recipe({**fields, "task_options": {"rois_per_image": 64}})) != plain


@pytest.mark.parametrize("scale", ["full", "short", "smoke"])
def test_printed_commands_train_the_same_recipes(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def take(recipe: Any, *, out: Path, **_: Any) -> None:
        taken.append((recipe, out))
        raise ValueError("taken")

    monkeypatch.setattr("pldistill.training.run.train", take)
    layout = lay_out(scale)
    for line in filter(None, commands(layout)):
        with pytest.raises(SystemExit):
            main(shlex.split(line)[1:])
    assert taken == [(cell.recipe, cell.folder) for cell in layout.runs]


def test_every_cell_of_table_7_runs(tmp_path: Path) -> None:
    """Two steps; the real models of each pair in the row `pld`."""
    layout = plan(TABLE7, out=tmp_path, scale="smoke")
    assert {cell.models for cell in layout.cells if cell.row == "pld"} == set(TABLE7.pairs.values())
    comparison = reproduce(layout, tmp_path, callback=StudyProgress(Console(file=StringIO())), device="cpu", workers=0)
    assert [entry.failures for entry in comparison.entries if entry.failures] == []
    assert len(comparison.entries) == 3 * 4
    table = (tmp_path / "table7.md").read_text(encoding="utf-8")
    assert "| 32.47 |" in table
    assert "pld \N{MINUS SIGN} dkd" in table
    assert (tmp_path / "table7.html").is_file()
