"""The ImageNet tables: their rows are the paper's, what they share is run once, and every row runs, two steps each."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pldistill.studies import STUDIES
from pldistill.studies.paper import published
from pldistill.studies.runner import commands, reproduce
from pldistill.studies.study import Plan, plan
from pldistill.training.progress import StudyProgress

IMAGENET = [name for name, study in STUDIES.items() if study.home == "imagenet"]


def lay_out(name: str, scale: str = "full") -> Plan:
    data = {"full": "imagenet:images", "short": "cifar100:images", "smoke": None}[scale]
    return plan(STUDIES[name], out=Path("runs/imagenet"), scale=scale, data=data)


def test_the_tables_are_there() -> None:
    numbers = (2, 3, 4, 5, 6, 8, 9, 10, 11, 12)
    assert [f"table{number}" for number in numbers] == IMAGENET


@pytest.mark.parametrize("name", ["table2", "table3", "table4", "table9"])
def test_tables_of_pairs_have_the_paper_s_lines_and_figures(name: str) -> None:
    study, table = STUDIES[name], published(name)
    assert list(study.pairs) == [str(line) for line in table["rows"]]
    methods = [method for method in table["columns"] if not method.startswith("teacher_")]
    assert set(study.rows) == set(methods)
    for line, figures in table["rows"].items():
        for method in methods:
            expected = figures[table["columns"].index(method)]
            assert study.published(method, str(line)) == {"top1": (expected, None)}


@pytest.mark.parametrize(("name", "extra"), [("table5", set()), ("table6", {"plistmle_teacher"})])
def test_tables_of_variants_have_the_paper_s_lines_and_figures(name: str, extra: set[str]) -> None:
    study, table = STUDIES[name], published(name)
    assert set(study.rows) == set(table["rows"]) | extra
    column = next(iter(study.pairs))
    for row, (top1, top5) in table["rows"].items():
        expected = {"top1": (top1, None)} | ({} if top5 is None else {"top5": (top5, None)})
        assert study.published(row, column) == expected


def test_the_grid_s_figures_stand_at_their_weights() -> None:
    study = STUDIES["table8"]
    assert len(study.rows) == 2 + 10 + 11
    assert study.published("ce", "") == {"top1": (71.35, None)}
    assert study.published("label_smoothing_0.1", "") == {"top1": (73.92, None)}
    assert study.published("kd_alpha0.9", "") == {"top1": (74.28, None), "top5": (91.59, None)}
    assert study.rows["kd_alpha0.9"]["weights"] == {"task": 0.9, "kd": pytest.approx(0.1)}
    assert study.published("dist_a1.0_b2.0_g2.0", "") == {"top1": (75.77, None), "top5": (92.67, None)}
    assert study.rows["dist_a1.0_b2.0_g2.0"]["options"] == {"beta": 2.0, "gamma": 2.0, "temperature": 1.0}
    assert study.rows["dist_a1.0_b2.0_g2.0"]["weights"] == {"task": 1.0}


def test_ambiguous_rows_stand_in_both_readings() -> None:
    six, eleven = STUDIES["table6"], STUDIES["table11"]
    assert six.published("plistmle", "") == six.published("plistmle_teacher", "")
    assert six.rows["plistmle_teacher"] == six.rows["pld_tau1.0"]
    assert eleven.published("reverse_kl", "") == eleven.published("reverse_kl_tau2", "") == {"top1": (67.44, None)}
    assert eleven.rows["reverse_kl"]["options"]["tau_squared"] is False
    assert eleven.rows["reverse_kl_tau2"]["options"]["tau_squared"] is True


def test_standardized_rows_stand_beside_pld_without() -> None:
    study = STUDIES["table10"]
    assert study.published("pld", "") == {"top1": (71.16, None)}
    assert set(study.rows) - {"pld"} == set(published("table10")["rows"])
    assert study.rows["pld_std_teacher_only"]["options"]["standardize"] == "teacher"


def test_nine_pairs_of_distances() -> None:
    study = STUDIES["table12"]
    assert list(study.pairs) == list(published("table12")["rows"])
    assert study.published("kd", "mobilenetv4_hybrid_medium>resnet50") == {"kl": (0.27, None)}


def test_the_setting_is_the_paper_s() -> None:
    for cell in lay_out("table2").cells:
        recipe = cell.recipe
        assert (recipe.optimizer, recipe.lr, recipe.weight_decay) == ("lamb", 5e-3, 0.02)
        assert (recipe.epochs, recipe.warmup_epochs, recipe.schedule) == (100, 5, "cosine")
        assert recipe.batch_size * recipe.accumulate == 2048
        assert recipe.teacher is not None
        assert recipe.teacher.partition(".")[2]
    assert {cell.recipe.epochs for cell in lay_out("table4").cells} == {100, 300}
    assert {cell.recipe.optimizer for cell in lay_out("table9").cells} == set(published("table9")["rows"])
    assert [cell.recipe.epochs for cell in lay_out("table4", "short").cells] == [6] * 4 + [18] * 4


def test_rows_that_tables_share_are_one_run() -> None:
    def folder(table: str, row: str, column: str) -> Path:
        (cell,) = (cell for cell in lay_out(table).cells if (cell.row, cell.column) == (row, column))
        return cell.folder

    pair = "resnet50 < resnet152"
    assert folder("table2", "pld", pair) == folder("table3", "pld", "resnet152") == folder("table6", "pld_tau1.0", pair)
    assert folder("table6", "plistmle_teacher", pair) == folder("table6", "pld_tau1.0", pair)
    assert (
        folder("table2", "kd", pair)
        == folder("table5", "kd_alpha0.1_tau2", pair)
        == folder("table8", "kd_alpha0.1", pair)
    )
    assert folder("table9", "pld", "lamb") == folder("table11", "pld", "conv_small < hybrid_large")
    medium = "mobilenetv4_conv_medium < mobilenetv4_conv_large"
    assert folder("table4", "dist", "100") == folder("table2", "dist", medium) != folder("table4", "dist", "300")
    assert len(lay_out("table6").runs) == len(lay_out("table6").cells) - 1


def test_printed_lines_spread_the_batch_over_processes() -> None:
    lines = [line for line in commands(lay_out("table6"), processes=4) if line]
    assert len(lines) == 7
    assert all(line.startswith("torchrun --nproc-per-node 4 -m pldistill train ") for line in lines)
    assert all("--accumulate 2" in line and "--batch-size 256" in line for line in lines)
    assert [line.split("--out ")[1] for line in lines] == [
        line.split("--out ")[1] for line in commands(lay_out("table6")) if line
    ]
    with pytest.raises(ValueError, match="processes: expected a divisor of the 8 batches"):
        commands(lay_out("table6"), processes=3)


def test_every_row_of_every_table_runs(tmp_path: Path) -> None:
    """Each real pair once, tiny models in the other rows; teachers with random weights."""
    for name in IMAGENET:
        layout = plan(STUDIES[name], out=tmp_path, scale="smoke")
        comparison = reproduce(
            layout, tmp_path, callback=StudyProgress(Console(file=StringIO())), device="cpu", workers=0
        )
        assert [entry.failures for entry in comparison.entries if entry.failures] == []
        assert all(entry.records and entry.records[0].finished for entry in comparison.entries)
        assert (tmp_path / f"{name}.md").is_file()
