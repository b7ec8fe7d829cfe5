"""Measured beside published: figures, gaps, failures, the label of a short run, and the choice of a variant."""

import csv
import io
import re

import pytest

from analysis_runs import make_run
from layout_cases import comparison_csv, comparison_html, comparison_markdown
from layout_cases import printed as printed_document
from pldistill.reports.comparison import Comparison, Entry
from pldistill.reports.comparison_frames import figure_frame, panel_frame
from pldistill.reports.comparison_tables import comparison_document
from pldistill.reports.html import write_report

PAIR = "resnet56-resnet20"
SHORT = "short: 2 epochs"
RENDERERS = [comparison_markdown, comparison_html, lambda c: printed(c, 200)]


def printed(comparison, width):
    return printed_document(comparison_document(comparison), width)


def runs(folder, row, tops, **how):
    """A finished run a seed, their last top-1 from `tops`, their best one point above it."""
    made = [make_run(folder / f"{row}{seed}", method=row, top1=[top + 1, top], seed=seed, **how) for seed, top in tops]
    return tuple(made)


def entry(folder, row, *tops, planned=3, **how):
    about = {key: how.pop(key) for key in ("column", "failures", "published", "variant") if key in how}
    records = runs(folder / about.get("column", PAIR) / about.get("variant", ""), row, tuple(enumerate(tops)), **how)
    return Entry(row, about.pop("column", PAIR), records, planned, **about)


def study(*entries, label="", teachers=None, notes=()):
    return Comparison(
        title="Table 1",
        entries=entries,
        teachers=teachers or {},
        label=label,
        protocol="AdamW, 250 epochs.",
        published_source="PLD paper, Table 1",
        notes=notes,
    )


def table(markdown):
    """The first Markdown table as lists of cells."""
    lines = next(part for part in markdown.split("\n\n") if part.startswith("| method")).split("\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [cells[0], *cells[2:]]


def lines(comparison):
    return list(csv.DictReader(io.StringIO(comparison_csv(comparison))))


def test_measured_is_mean_and_deviation_over_the_finished_runs(tmp_path):
    each = entry(tmp_path, "kd", 60.0, 62.0)
    unfinished = make_run(tmp_path / "third", method="kd", top1=[99.0], epochs=2, seed=2, finished=False)
    comparison = study(Entry("kd", PAIR, (*each.records, unfinished), 3), Entry("pld", PAIR, (), 3))
    last = figure_frame(comparison, ["top1"])[["mean", "std", "count"]]
    deviation = (((60 - 61) ** 2 + (62 - 61) ** 2) / (2 - 1)) ** 0.5
    assert last.loc[0].tolist() == [61.0, pytest.approx(deviation), 2]
    assert last.loc[1].isna().all()
    panel = panel_frame(comparison)[["best_mean", "best_std"]]
    assert panel.loc[0].tolist() == [62.0, pytest.approx(2**0.5)]
    assert panel.loc[1].isna().all()


def test_the_table_of_one_pair(tmp_path):
    teacher = make_run(tmp_path / "teacher", student="resnet56", top1=[70.0, 72.345])
    comparison = study(
        entry(tmp_path, "ce", 50.0, 52.0, 54.0, published={"top1": (67.57, 0.25)}),
        entry(tmp_path, "kd", 60.0, published={"top1": (69.45, None)}),
        entry(tmp_path, "pld", published={"top1": (70.28, 0.21)}),
        entry(tmp_path, "plkl-k10", 59.0, 57.0, 58.0),
        teachers={PAIR: teacher},
    )
    text = comparison_markdown(comparison)
    assert table(text) == [
        ["method", "paper", "measured last", "measured best", "n"],
        ["ce", "67.57 ± 0.25", "52.00 ± 2.00", "53.00 ± 2.00", "3"],
        ["kd", "69.45", "**60.00**", "61.00", "1/3"],
        ["pld", "70.28 ± 0.21", "", "", ""],
        ["plkl-k10", "", "58.00 ± 1.00", "59.00 ± 1.00", "3"],
    ]
    for said in ("## Table 1", f"### {PAIR}", "Paper: PLD paper, Table 1.", "Protocol: AdamW, 250 epochs."):
        assert said in text.split("\n")
    assert "Teacher resnet56: 72.34 % top-1 after the last of 2 epochs." in text
    assert "short" not in text


def test_a_row_that_has_begun_shows_how_far(tmp_path):
    begun = make_run(tmp_path / "run", method="kd", top1=[9.0], epochs=2, finished=False)
    comparison = study(entry(tmp_path, "ce", 50.0, planned=1), Entry("kd", PAIR, (begun,), 3))
    assert table(comparison_markdown(comparison))[1:] == [["ce", "50.00", "51.00", "1"], ["kd", "", "", "0/3"]]


def test_failures_are_marked_and_explained(tmp_path):
    lost = "NonFiniteLoss: term 'pld' of the loss\nwas not finite"
    comparison = study(
        entry(tmp_path, "ce", 50.0, 52.0, planned=3, failures=("out of memory | <cuda>",)),
        entry(tmp_path, "pld", failures=(lost, lost, "OSError: disk full")),
    )
    text = comparison_markdown(comparison)
    assert table(text)[1:] == [
        ["ce", "51.00 ± 1.41", "52.00 ± 1.41", "2/3 (1)"],
        ["pld", "failed (2)", "", "0/3"],
    ]
    assert r"- (1) ce: 1 of 3 failed: out of memory \| \<cuda>" in text
    why = "NonFiniteLoss: term 'pld' of the loss was not finite; OSError: disk full"
    assert f"- (2) pld: 3 of 3 failed: {why}" in text
    assert lines(comparison)[1]["failed"] == why
    assert "out of memory | &lt;cuda&gt;" in comparison_html(comparison)
    assert "failed (2)" in printed(comparison, 80)


def test_several_pairs_have_a_table_each_with_its_teacher(tmp_path):
    other = "wrn_40_2-wrn_40_1"
    begun = make_run(tmp_path / "teacher", student="wrn_40_2", top1=[9.0], epochs=4, finished=False)
    comparison = study(
        entry(tmp_path, "ce", 50.0), entry(tmp_path, "ce", 40.0, column=other), teachers={PAIR: None, other: begun}
    )
    for render in RENDERERS:
        text = render(comparison)
        places = [text.index(said) for said in (PAIR, "not trained yet", "50.00", other, "unfinished, 1 of 4", "40.00")]
        assert places == sorted(places)


@pytest.mark.parametrize("render", RENDERERS)
def test_every_form_shows_every_figure(tmp_path, render):
    entries = entry(tmp_path, "ce", 50.0, 52.5, published={"top1": (67.57, 0.25)}), entry(tmp_path, "kd", 49.0)
    text = render(study(*entries, notes=("Chosen by us: the rate.",)))
    assert "Chosen by us: the rate." in text.split("49.00")[1]
    for said in ("67.57 ± 0.25", "51.25 ± 1.77", "52.25 ± 1.77", "2/3", "49.00", "paper", "last", "best", "flatters"):
        assert said in text


@pytest.mark.parametrize("render", RENDERERS)
def test_a_short_run_is_labelled_above_the_table_and_in_its_header(tmp_path, render):
    entries = [entry(tmp_path, "ce", 50.0, published={"top1": (67.57, 0.25)}), entry(tmp_path, "kd", 51.0)]
    entries += [entry(tmp_path, "kd", 52.0, variant="scale 2")]
    text = render(study(*entries, label=SHORT))
    head = text[: text.index("67.57")]
    start = head.index("<table") if "<table" in head else head.index("method")
    above, header = head[:start], head[start:]
    assert SHORT in above
    assert re.search(r"measured[^|\n]*short", header)
    assert re.search(r"chosen[^|\n]*short", header)
    assert "short" not in render(study(*entries))
    assert {line["label"] for line in lines(study(*entries, label=SHORT))} == {SHORT}


def test_the_csv_is_in_full_precision(tmp_path):
    published = {"top1": (67.57, 0.25)}
    comparison = study(entry(tmp_path, "ce", 50.0, 50.1, published=published, seconds=61.5), entry(tmp_path, "kd"))
    ce, kd = lines(comparison)
    names = ("last", "best", "holdout_last", "published")
    spread = [f"{name}_{part}" for name in names for part in ("mean", "std")]
    assert list(ce) == ["row", "column", "variant", "label", "n", "planned", *spread, "seconds_mean", "failed"]
    assert (ce["row"], ce["column"], ce["n"], ce["planned"]) == ("ce", PAIR, "2", "3")
    assert float(ce["last_mean"]) == (50.0 + 50.1) / 2
    assert float(ce["last_std"]) == pytest.approx(0.1 / 2**0.5, rel=1e-12)
    assert (ce["published_mean"], ce["published_std"], ce["seconds_mean"]) == ("67.57", "0.25", "61.5")
    assert {key: value for key, value in kd.items() if value} == {"row": "kd", "column": PAIR, "n": "0", "planned": "3"}


def test_seconds_of_different_machines_are_not_averaged(tmp_path):
    two = make_run(tmp_path / "one", env={"device_name": "a GPU"}), make_run(tmp_path / "other", seed=1)
    assert lines(study(Entry("ce", PAIR, two, 2)))[0]["seconds_mean"] == ""


def test_best_is_explained(tmp_path):
    plain = entry(tmp_path, "ce", 50.0)
    apart = entry(tmp_path, "kd", 50.0, result={"holdout_best": 51.0})
    for render in (comparison_markdown, comparison_html):
        assert "best: the epoch that is best on the images it is scored on, so it flatters." in render(study(plain))
        assert "best: the epoch that is best on held-out training images." in render(study(apart))
        mixed = "training images for runs that held some out, else the epoch that is best on the images it is"
        assert mixed in render(study(plain, apart))


def test_a_lone_variant_stands_beside_the_default(tmp_path):
    comparison = study(
        entry(tmp_path, "ce", 50.0, planned=1),
        entry(tmp_path, "kd", 52.0, planned=1),
        entry(tmp_path, "kd", 53.0, planned=1, variant="scale 4"),
    )
    text = comparison_markdown(comparison)
    assert table(text) == [
        ["method", "measured last", "measured best", "n", "chosen", "chosen last", "chosen best", "chosen n"],
        ["ce", "50.00", "51.00", "1", "", "", "", ""],
        ["kd", "**52.00**", "53.00", "1", "scale 4", "53.00", "54.00", "1"],
    ]
    assert "held out" not in text
    assert [line["variant"] for line in lines(comparison)] == ["", "", "scale 4"]


def held(folder, row, last, holdout, variant=""):
    return entry(folder, row, last, planned=1, variant=variant, result={"holdout_best": 99.0, "holdout_last": holdout})


def test_the_variant_is_chosen_on_held_out_images_and_not_on_the_test(tmp_path):
    comparison = study(
        held(tmp_path, "ce", 50.0, 49.0),
        held(tmp_path, "ce", 58.0, 48.0, "scale 2"),
        held(tmp_path, "ce", 59.0, 47.0, "scale 4"),
        held(tmp_path, "kd", 52.0, 49.0),
        held(tmp_path, "kd", 53.0, 50.5, "scale 2"),
        held(tmp_path, "kd", 54.0, 50.0, "scale 4"),
    )
    text = comparison_markdown(comparison)
    assert table(text)[1:] == [
        ["ce", "50.00", "51.00", "1", "default", "50.00", "51.00", "1"],
        ["kd", "**52.00**", "53.00", "1", "scale 2", "**53.00**", "54.00", "1"],
    ]
    sweep = text[text.index("| method | held out default |") :].split("\n")
    assert sweep[0] == "| method | held out default | held out scale 2 | held out scale 4 |"
    assert sweep[2:4] == ["| ce | **49.00** | 48.00 | 47.00 |", "| kd | 49.00 | **50.50** | 50.00 |"]
    assert "<strong>50.50</strong>" in comparison_html(comparison)
    assert [line["holdout_last_mean"] for line in lines(comparison)] == ["49.0", "48.0", "47.0", "49.0", "50.5", "50.0"]


def test_nothing_is_chosen_before_every_variant_was_tried(tmp_path):
    tried = [held(tmp_path, "kd", 52.0, 49.0), held(tmp_path, "kd", 53.0, 50.5, "scale 2")]
    waiting = study(*tried, entry(tmp_path, "kd", variant="scale 4"))
    assert table(comparison_markdown(waiting))[1] == ["kd", "52.00", "53.00", "1", "", "", "", ""]
    failed = study(*tried, entry(tmp_path, "kd", variant="scale 4", failures=("diverged",)))
    assert table(comparison_markdown(failed))[1][4:] == ["scale 2", "53.00", "54.00", "1"]
    assert "- (1) kd, scale 4: 1 of 3 failed: diverged" in comparison_markdown(failed)


def test_several_variants_without_held_out_images_cannot_be_chosen_among(tmp_path):
    entries = [entry(tmp_path, "kd", 52.0, variant=variant) for variant in ("", "scale 2", "scale 4")]
    with pytest.raises(ValueError, match="expected runs with held-out images to choose among scale 2, scale 4 by"):
        comparison_markdown(study(*entries))


def test_runs_that_may_not_be_averaged_are_refused(tmp_path):
    one = make_run(tmp_path / "one", method="kd")
    again = make_run(tmp_path / "again", method="kd")
    with pytest.raises(ValueError, match=r"entry kd of resnet56-resnet20: expected one run a seed, got seeds \[0, 0\]"):
        comparison_markdown(study(Entry("kd", PAIR, (one, again), 3)))
    faster = make_run(tmp_path / "faster", method="kd", seed=1, lr=0.1)
    with pytest.raises(ValueError, match="runs that differ in the seed alone, got others in lr"):
        comparison_markdown(study(Entry("kd", PAIR, (one, faster), 3)))
    few = make_run(tmp_path / "few", method="kd", seed=1, data="cifar100:/a,train=500")
    with pytest.raises(ValueError, match="got others in data"):
        comparison_markdown(study(Entry("kd", PAIR, (one, few), 3)))


def test_runs_made_elsewhere_are_averaged(tmp_path):
    here = make_run(tmp_path / "here", method="kd", data="cifar100:/a", teacher="/a/teacher", top1=[50.0])
    there = make_run(tmp_path / "there", method="kd", data="cifar100:/b", teacher="/b/teacher", top1=[52.0], seed=1)
    (last,) = figure_frame(study(Entry("kd", PAIR, (here, there), 3)), ["top1"]).to_dict("records")
    assert (last["mean"], last["count"]) == (51.0, 2)


def test_bad_comparisons_are_refused(tmp_path):
    with pytest.raises(ValueError, match="entries: expected at least one, got none"):
        study()
    with pytest.raises(ValueError, match="got several of resnet56-resnet20: kd"):
        study(Entry("kd", PAIR, (), 3), Entry("kd", PAIR, (), 3))


def test_the_terminal_table_fits_80_columns(tmp_path):
    paper = {"top1": (67.57, 0.25)}
    entries = [entry(tmp_path, row, 50.0, 52.5, 51.0, published=paper) for row in ("fitnet", "plkl-k10")]
    entries += [
        entry(tmp_path, each.row, 52.0, 51.0, 50.0, variant="scale 0.5", result={"holdout_last": 40.0})
        for each in entries
    ]
    held_out = {"holdout_last": 41.0}
    defaults = [entry(tmp_path / "h", each.row, 52.0, 51.0, 50.0, result=held_out) for each in entries[:2]]
    text = printed(study(*defaults, *entries[2:], label="short: 10 epochs, 10,000 images"), 80)
    assert "…" not in text
    assert "51.00 ± 1.00" in text


def test_html_is_escaped_and_stands_first_in_the_report(tmp_path):
    nasty = "<script>alert(1)</script>&"
    bad = study(entry(tmp_path, "ce", 50.0, failures=(nasty,)), label=nasty)
    bad = Comparison(nasty, (*bad.entries, Entry(nasty, nasty, (), 1)), {}, nasty, nasty, nasty, (nasty,))
    section = comparison_html(bad)
    assert "<script" not in section
    assert section.startswith("<section>")
    run = make_run(tmp_path / "run")
    page = write_report([run], tmp_path / "report.html", sections=[section]).read_text(encoding="utf-8")
    assert section.strip() in page
    assert page.index(section.strip()) < page.index('id="results"')
    assert "<section>\n" not in write_report([run], tmp_path / "plain.html").read_text(encoding="utf-8")
