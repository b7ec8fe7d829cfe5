"""A line a variant, and what holds of every layout: labels, forms, CSV, curves, refusals."""

import csv
import io
import re

import pytest

from analysis_runs import make_run
from layout_cases import (
    GAINS,
    SHORT,
    comparison_csv,
    comparison_html,
    comparison_markdown,
    entry,
    study,
    tables,
    two_pairs,
)
from layout_cases import printed as printed_document
from pldistill.reports.comparison import Entry, Facts, Pairs, Variants
from pldistill.reports.comparison_tables import comparison_document

MINUS = "\u2212"
RENDERERS = [comparison_markdown, comparison_html, lambda c: printed(c, 300)]


def printed(comparison, width):
    return printed_document(comparison_document(comparison), width)


def lines(comparison):
    return list(csv.DictReader(io.StringIO(comparison_csv(comparison))))


def variants(folder):
    same = entry(folder, "c", "pld", 77.0, 77.5, top5_last=93.0, paper={"top1": (77.30, None), "top5": (93.28, None)})
    return [
        same,
        entry(folder, "c", "listmle", 74.0, top5_last=94.0, paper={"top1": (74.11, None), "top5": (90.60, None)}),
        Entry("plistmle by softmax", "c", same.records, 2, (), {"top1": (76.60, None)}),
        entry(folder, "c", "plistmle", top5_last=1.0),
    ]


def test_variants_are_lines_with_their_metrics(tmp_path):
    teacher = make_run(tmp_path / "t", student="resnet152", top1=[79.0])
    facts = {"c": Facts(paper_teacher_top1=79.61)}
    comparison = study(Variants(reference="pld"), *variants(tmp_path), teachers={"c": teacher}, facts=facts)
    assert tables(comparison) == [
        [
            "| method | measured top-1 | paper top-1 | measured top-5 | paper top-5 "
            f"| measured pld {MINUS} row | paper pld {MINUS} row | n |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            "| pld | **77.25 ± 0.35** | 77.30 | 93.00 ± 0.00 | 93.28 |  |  | 2 |",
            "| listmle | 74.00 | 74.11 | **94.00** | 90.60 | +3.25 | +3.19 | 1 |",
            "| plistmle by softmax | **77.25 ± 0.35** | 76.60 | 93.00 ± 0.00 |  | +0.00 | +0.70 | 2 |",
            "| plistmle |  |  |  |  |  |  |  |",
        ]
    ]
    text = comparison_markdown(comparison)
    assert "Teacher resnet152: 79.00 % top-1 after the last of 1 epochs. The paper's teacher: 79.61 %." in text
    assert "- pld, plistmle by softmax: the same runs." in text


def test_minutes_are_a_metric_like_any_other(tmp_path):
    kd = entry(tmp_path, "c", "kd", 70.0, 71.0, seconds=90.0, paper={"minutes": (33.57, None)})
    comparison = study(Variants(metrics=("top1", "minutes")), kd, entry(tmp_path, "c", "ce", 69.0, seconds=61.2))
    ((header, _, first, second),) = tables(comparison)
    assert header == "| method | measured top-1 | measured minutes | paper minutes | n |"
    assert first == "| kd | **70.50 ± 0.71** | 1.50 ± 0.00 | 33.57 | 2 |"
    assert second == f"| ce | 69.00 | **{61.2 / 60:.2f}** |  | 1 |"
    text = comparison_markdown(comparison)
    assert "- minutes: of a whole run: training and validation of all epochs, images included." in text
    assert "; the best is bold." in text
    unranked = comparison_markdown(study(Variants(metrics=("minutes",), ranked=False), *comparison.entries))
    assert "**" not in unranked
    assert "bold" not in unranked


def test_a_teacher_that_was_not_trained_here(tmp_path):
    known = study(Variants(), *variants(tmp_path), teachers={"c": None}, facts={"c": Facts(teacher_top1=82.5)})
    assert "Teacher: 82.50 % top-1." in comparison_markdown(known)
    assert "Teacher: not trained yet." in comparison_markdown(study(Variants(), *known.entries, teachers={"c": None}))
    assert "Teacher" not in comparison_markdown(study(Variants(), *known.entries))


@pytest.mark.parametrize("layout", [Pairs(metrics=("top1", "top5"), differences=GAINS, mean=True), Variants()])
def test_the_label_stands_at_every_measured_header_and_at_none_of_the_paper_s(tmp_path, layout):
    comparison = study(layout, *two_pairs(tmp_path), label=SHORT)
    text = comparison_markdown(comparison)
    assert f"repeat of published figures: {SHORT}." in text
    for table in tables(comparison):
        cells = [cell.strip() for cell in table[0].strip("|").split("|")]
        assert {"(short)" in cell for cell in cells if cell.startswith("measured")} == {True}
        assert {"short" in cell for cell in cells if not cell.startswith("measured")} == {False}
    html = comparison_html(comparison)
    assert SHORT in html
    assert set(re.findall(r">(measured[^<]*)<", html)) == {"measured, short"}
    assert set(re.findall(r">(paper[^<]*)<", html)) == {"paper"}
    assert "(short)" in printed(comparison, 300)
    assert "short" not in comparison_html(study(layout, *comparison.entries))


@pytest.mark.parametrize("layout", [Pairs(differences=GAINS, mean=True), Variants(reference="pld")])
@pytest.mark.parametrize("render", RENDERERS)
def test_every_form_shows_every_figure(tmp_path, render, layout):
    text = render(study(layout, *two_pairs(tmp_path), notes=("One more note.",)))
    for said in ("70.00 ± 1.41", "75.33", "75.63", "+5.00", "+6.00", "+0.70", "c", "One more note."):
        assert said in text


def test_a_wide_table_is_several_in_a_narrow_terminal(tmp_path):
    column = "mobilenetv4_hybrid_medium < mobilenetv4_conv_large"
    entries = [entry(tmp_path, column, row, 70.0, 71.0, paper=75.3) for row in ("kd", "dist", "pld", "ce")]
    text = printed(study(Pairs(differences=GAINS, mean=True), *entries, label=SHORT), 80)
    assert max(map(len, text.split("\n"))) <= 80
    assert "…" not in text
    assert text.count("70.50 ± 0.71 (2)") == 4
    assert text.count("75.30") == 4
    assert text.count("mobilenetv4_conv_large") > 1  # the first column in every one


def test_the_csv_has_a_line_for_each_entry_and_metric(tmp_path):
    paper = {"kl": (0.5, None), "top1": (75.5, 0.1)}
    kd = entry(tmp_path, "a < b", "kd", 70.0, 71.0, planned=3, kl_last=0.25, paper=paper)
    comparison = study(
        Pairs(metrics=("kl", "top1")), kd, entry(tmp_path, "a < b", "pld", failures=("lost",)), label=SHORT
    )
    assert comparison_csv(comparison).split("\n") == [
        "row,column,variant,metric,mean,std,n,planned,paper,paper_std,label,failed",
        "kd,a < b,,kl,0.25,0.0,2,3,0.5,,short: 2 epochs,",
        "kd,a < b,,top1,70.5,0.7071067811865476,2,3,75.5,0.1,short: 2 epochs,",
        "pld,a < b,,kl,,,0,1,,,short: 2 epochs,lost",
        "pld,a < b,,top1,,,0,1,,,short: 2 epochs,lost",
        "",
    ]
    assert [line["metric"] for line in lines(study(Variants(), *comparison.entries))] == ["top1", "top5"] * 2


def test_html_is_escaped(tmp_path):
    nasty = "<script>alert(1)</script>&"
    for layout in (Pairs(line=nasty), Variants()):
        section = comparison_html(study(layout, entry(tmp_path, "a", "kd"), Entry(nasty, nasty, (), 1, (nasty,))))
        assert "<script" not in section
        assert "&lt;script" in section


def test_kl_through_training_is_drawn_by_pair_and_method(tmp_path):
    entries = [
        Entry(row, column, (make_run(tmp_path / column / row, method=row, teacher="t", top1=[1.0, 2.0, 3.0]),), 1)
        for column in ("a < b", "c < d")
        for row in ("kd", "pld")
    ]
    page = comparison_html(study(Pairs(metrics=("kl",), through=("kl",)), *entries, label=SHORT))
    assert 'aria-label="KL by epoch, short"' in page
    assert "<figcaption>KL by epoch: KL(teacher ‖ student) on the validation set" in page
    drawing = page[page.index("<svg") : page.index("</svg>")]
    assert [drawing.count(f">{name}<") for name in ("a &lt; b", "c &lt; d", "kd", "pld", "Epoch")] == [1, 1, 2, 2, 1]
    assert "<svg" not in comparison_html(study(Pairs(metrics=("kl",)), *entries))
    assert "<svg" not in comparison_html(study(Pairs(through=("agreement",)), *entries))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pairs(metrics=("top_1",)), "unknown metric 'top_1'; did you mean top1"),
        (lambda: Pairs(through=("loss",)), "unknown metric 'loss'"),
        (lambda: Pairs(metrics=()), "metrics: expected some of top1, top5, kl, .*, got none"),
        (lambda: Pairs(facts=("params",)), "unknown fact 'params'"),
        (
            lambda: Pairs(paper_means={("pld", "kd"): 1.0}),
            r"paper_means: expected pairs of rows from differences, got \(",
        ),
        (lambda: Variants(metrics=()), "metrics: expected some of"),
        (lambda: Variants(metrics=("map",)), "unknown metric 'map'"),
        (
            lambda: study(Pairs(), Entry("kd", "a", (), 1, (), {"top-1": (1.0, None)})),
            "unknown published metric 'top-1'",
        ),
    ],
)
def test_bad_layouts_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
