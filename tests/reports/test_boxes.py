"""Detectors in tables and on the page: the six columns, AP by class, and images with what was found in them."""

import base64
import csv
import io
import re
import shutil

import pytest
from PIL import Image, ImageChops

from analysis_runs import make_run
from detection_runs import CAT, make_detector
from layout_cases import comparison_csv, comparison_html, printed, study
from layout_cases import tables as grids
from pldistill.reports.boxes import Panel, detection_sheets, draw_boxes, jpeg, side_by_side
from pldistill.reports.comparison import Entry, Variants
from pldistill.reports.html import write_report
from pldistill.reports.render import csv_text, markdown
from pldistill.reports.runs import group_runs
from pldistill.reports.summary import summarize, summary_csv, summary_document
from pldistill.tasks.registry import TASKS

BOXES = tuple(TASKS["detection"].metrics)

GREY = Image.new("RGB", (120, 90), "#808080")


def contest(folder, **given):
    teacher = str(folder / "teacher")
    return [
        make_detector(folder / "teacher", 40.0, student="fasterrcnn:resnet50", **given),
        make_detector(folder / "ce", 30.0, **given),
        make_detector(folder / "pld0", 32.0, method="pld", teacher=teacher, **given),
        make_detector(folder / "pld1", 34.0, method="pld", teacher=teacher, seed=1, **given),
    ]


def test_detectors_are_ranked_by_ap_and_show_six_columns(tmp_path):
    rows = summarize(group_runs(contest(tmp_path)))
    assert rows["score"].tolist() == [40.0, 30.0, 33.0]
    assert rows["over_ce"].isna().tolist() == [True, True, False]
    assert rows["over_ce"].iloc[2] == 3.0
    assert rows["best"].tolist() == [False, False, True]
    header, _, *lines = markdown(summary_document(rows)).split("\n\n")[1].splitlines()
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert columns[-10:-1] == ["n", "AP", "Best", "Over CE", "AP50", "AP75", "APm", "APl", "Time"]  # APs: nothing small
    assert "**33.00 ± 1.41**" in lines[2]
    (first, *_) = csv.DictReader(io.StringIO(csv_text(summary_csv(rows))))
    assert [first[f"{name}_mean"] for name in BOXES] == ["40.0", "60.0", "41.0", "", "42.0", "43.0"]
    assert "AP50" in printed(summary_document(rows), 80)


def test_classifiers_have_no_columns_of_detectors(tmp_path):
    rows = summarize(group_runs([make_run(tmp_path / "ce"), make_run(tmp_path / "kd", method="kd")]))
    assert "AP" not in markdown(summary_document(rows)) + csv_text(summary_csv(rows))


def test_a_study_of_detectors_has_its_metrics_and_differences(tmp_path):
    ce, *plds = contest(tmp_path)[1:]
    paper = {"AP": (32.11, None), "AP50": (53.43, None)}
    entries = [
        Entry("dkd", "R", (ce,), 1, published=paper),
        Entry("pld", "R", tuple(plds), 2, published={"AP": (32.47, None)}),
    ]
    layout = Variants(metrics=BOXES, differences=(("pld", "dkd"), ("pld", "kd")), through=("AP",))
    comparison = study(layout, *entries, teachers={"R": make_detector(tmp_path / "t", 41.0)})
    ((header, _, dkd, pld, less),) = grids(comparison)
    assert header.startswith("| method | measured AP | paper AP | measured AP50 | paper AP50 | measured AP75 |")
    assert dkd.startswith("| dkd | 30.00 | 32.11 | 50.00 | 53.43 | 31.00 |  |")
    assert pld.startswith("| pld | **33.00 ± 1.41** | 32.47 | **53.00 ± 1.41** |  | **34.00 ± 1.41** |")
    assert less.startswith("| pld \N{MINUS SIGN} dkd | +3.00 | +0.36 | +3.00 |  | +3.00 |  | +3.00 | +3.00 |  |")
    page = comparison_html(comparison)
    assert "41.00 % AP after the last of 1 epochs" in page
    assert "AP by epoch: COCO" in page
    assert "differences of the means" in page
    lines = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert [line["mean"] for line in lines if line["row"] == "dkd"] == ["30.0", "50.0", "31.0", "", "32.0", "33.0"]


def test_the_page_shows_the_images_and_leaves_them_beside_it(tmp_path):
    out = write_report(contest(tmp_path), tmp_path / "page" / "report.html")
    page = out.read_text(encoding="utf-8")
    assert "33.00 ± 1.41 %</b><span>highest AP, by <strong>pld</strong>, +3.00 over cross-entropy" in page
    (file,) = (tmp_path / "page" / "report-images").iterdir()
    (inside,) = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    assert base64.b64decode(inside) == file.read_bytes()
    assert "img-src data:" in page
    assert "7.jpg: ground truth, teacher fasterrcnn:resnet50, ce, pld, seed 0" in page
    by_class = page[page.index("Each class: AP, or IoU") :]
    assert re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", by_class)[4:8] == ["cat", "45.0", "35.0", "38.0 ± 1.4"]
    assert "Top-1" not in page


def test_images_differ_by_what_was_found(tmp_path):
    with_teacher, without = contest(tmp_path)[2], make_detector(tmp_path / "alone", 1.0, data="other")
    first, second = detection_sheets(group_runs([with_teacher, without]))
    assert [first.name, second.name] == ["1-1-7", "2-1-7"]
    assert "teacher" in first.caption
    assert "teacher" not in second.caption
    assert detection_sheets(group_runs([make_detector(tmp_path / "none", 1.0, images=False)])) == []
    assert detection_sheets(group_runs([with_teacher]))[0].content == first.content


def test_images_of_one_name_in_two_folders_have_a_sheet_each(tmp_path):
    run = make_detector(tmp_path / "run", 30.0)
    (seen,) = run.read_detections()["images"]
    both = []
    for folder in ("one", "two"):
        file = f"images/{folder}/7.jpg"
        (run.folder / file).parent.mkdir()
        shutil.copy(run.folder / "images" / "7.jpg", run.folder / file)
        both.append({**seen, "file": file})
    run.write_detections({"images": both})
    sheets = detection_sheets(group_runs([run]))
    assert [sheet.name for sheet in sheets] == ["1-1-7", "1-2-7"]
    assert [sheet.caption.split(":")[0] for sheet in sheets] == ["one/7.jpg", "two/7.jpg"]


def changed(first, second):
    """The part of the image in which the two differ, None for none."""
    return ImageChops.difference(first, second).getbbox()


def test_boxes_are_drawn_where_they_are():
    bare = draw_boxes(GREY, [])
    assert bare.size == (480, 360)  # four times as large
    left, top, right, bottom = changed(draw_boxes(GREY, [CAT]), bare) or (0, 0, 0, 0)
    assert (left, right, bottom) == (39, 242, 282)
    assert 28 <= top <= 47  # the class's name stands above
    assert changed(draw_boxes(GREY, [{**CAT, "score": 0.49}]), bare) is None
    assert changed(draw_boxes(GREY, [{**CAT, "score": 0.49}], least=0.4), bare) is not None


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [-50, -50, 500, 500], [119, 89, 130, 95], [20, 30, 10, 5]])
def test_any_box_can_be_drawn(box):
    assert draw_boxes(GREY, [{"box": box, "class": "a\nvery <long> name" * 9, "score": 1.0}]).size == (480, 360)


def test_panels_stand_four_abreast():
    sheet = side_by_side(GREY, [Panel(f"model {number}", [CAT]) for number in range(5)])
    assert sheet.size == (4 * 490 - 10, 2 * (360 + 26 + 10) - 10)
    assert jpeg(sheet) == jpeg(side_by_side(GREY, [Panel(f"model {number}", [CAT]) for number in range(5)]))
