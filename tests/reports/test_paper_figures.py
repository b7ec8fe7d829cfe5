"""The paper's figures: what is drawn, by hand and side, and the paper's own points."""

import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from rich.console import Console

from pldistill.reports.paper_figures import METHOD_COLORS, Stat, figure1a, figure1b, figure2
from pldistill.studies import figures

PAPER = {"kd": {0.0: 75.0, 0.5: 76.0}, "dist": {0.0: 76.5, 0.5: 73.0}}
OURS = {"kd": {0.5: Stat(75.5, 0.25, 3), 0.0: Stat(74.0, None, 1)}, "dist": {0.0: Stat(76.0, 0.5, 2), 0.5: None}}
BARS = {"A": {"kd": {"s < t": 70.0, "u < t": 71.0}, "pld": {"s < t": 72.0, "u < t": 73.5}}, "B": {"pld": {"t": 77.0}}}


def lines(ax):
    """Label to the points of its line, and to the deviations."""
    drawn = {}
    for line in ax.containers:
        (bars,) = line.lines[2]
        halves = [float(np.ptp(segment[:, 1]) / 2) for segment in bars.get_segments()]
        drawn[line.get_label()] = (line.lines[0].get_xydata().tolist(), halves)
    return drawn


def bars(ax):
    """Label to (height in the panel, length) of its bars."""
    return {
        group.get_label(): [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in group.patches]
        for group in ax.containers
        if group.get_label() in {f"{name.upper()}{paper}" for name in METHOD_COLORS for paper in ("", ", paper")}
    }


def test_measured_lines_stand_firm_beside_the_papers_lighter_ones():
    (ax,) = figure1a(PAPER, OURS).axes
    drawn = lines(ax)
    assert drawn["KD, paper"] == ([[0.0, 75.0], [0.5, 76.0]], [0, 0])
    assert drawn["KD"] == ([[0.0, 74.0], [0.5, 75.5]], [0, pytest.approx(0.25)])
    assert drawn["DIST"] == ([[0.0, 76.0]], [pytest.approx(0.5)])
    firm, light = (
        next(one.lines[0] for one in ax.containers if one.get_label() == name) for name in ("KD", "KD, paper")
    )
    assert to_hex(firm.get_color()) == to_hex(light.get_color()) == METHOD_COLORS["kd"]
    assert firm.get_alpha() == 1
    assert light.get_alpha() < 0.6
    assert firm.get_linewidth() > light.get_linewidth()
    assert {text.get_text() for text in ax.texts} == set(drawn)
    assert "Firm: measured" in ax.get_title(loc="left")


def test_another_protocol_has_a_panel_and_a_scale_of_its_own():
    measured, paper = figure1a(PAPER, OURS, "short: 10 epochs").axes
    assert set(lines(measured)) == {"KD", "DIST"}
    assert set(lines(paper)) == {"KD, paper", "DIST, paper"}
    assert measured.get_title(loc="left") == "Measured, short: 10 epochs"
    assert measured.get_ylim() != paper.get_ylim()


@pytest.mark.parametrize("measured", [{}, {"kd": {}}, {"kd": {0.0: None}}])
def test_what_was_not_run_is_said_and_the_papers_points_are_drawn_alone(measured):
    (ax,) = figure1a(PAPER, measured, "short: 10 epochs").axes
    assert set(lines(ax)) == {"KD, paper", "DIST, paper"}
    assert "Measured: not run." in ax.get_title(loc="left")


def test_lengths_of_training_stand_at_equal_distances():
    (ax,) = figure1b({"pld": {300: 76.9, 100: 75.7}}, {"pld": {100: Stat(75.0, None, 1)}}).axes
    assert lines(ax)["PLD, paper"][0] == [[0, 75.7], [1, 76.9]]
    assert lines(ax)["PLD"][0] == [[0, 75.0]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["100", "300"]


def test_bars_of_pairs_measured_in_front_of_the_papers():
    figure = figure2(BARS, {"A": {"pld": {"u < t": Stat(73.0, 0.5, 3)}}})
    first, second = figure.findobj(Axes)
    drawn = bars(first)
    assert [width for _, width in drawn["KD, paper"]] == [70, 71]
    assert [width for _, width in drawn["PLD, paper"]] == [72, 73.5]
    assert drawn["PLD"] == [(pytest.approx(drawn["PLD, paper"][1][0]), 73)]
    assert first.get_xlim()[0] == 67
    assert "bars begin at 67" in first.get_xlabel()
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["s\nfrom t", "u\nfrom t"]
    said = [text.get_text().strip() for text in first.texts]
    assert "PLD 73.00 ± 0.50, paper 73.50" in said
    assert "KD paper 70.00" in said
    assert "Measured: not run." in second.get_title(loc="left")


def test_bars_of_another_protocol_are_as_thick_beside_the_papers():
    measured, paper = figure2({"A": BARS["A"]}, {"A": {"kd": {"x < y": Stat(40.0, None, 1)}}}, "short: 2 epochs").axes
    assert (set(bars(measured)), set(bars(paper))) == ({"KD"}, {"KD, paper", "PLD, paper"})
    assert measured.get_ylim() == paper.get_ylim()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figure1a({}, OURS), "published: expected at least one point, got none"),
        (lambda: figure1a({"kb": {0.0: 1.0}}, {}), "unknown method 'kb'; did you mean kd"),
        (lambda: figure1b(PAPER, {"sp": {0.0: None}}), "unknown method 'sp'"),
        (lambda: figure2({"A": {}}, {}), "published: expected at least one point, got none"),
        (lambda: figure2(BARS, {"C": {}}), "measured: expected headings of A, B, got C"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_papers_points_are_those_of_its_tables():
    alpha = figures.weights_of_cross_entropy()
    assert list(alpha["kd"]) == [pytest.approx(tenth / 10) for tenth in range(10)]
    assert list(alpha["dist"]) == list(alpha["kd"])  # (1, 2, 2) is not of the sweep
    assert (alpha["kd"][0.1], alpha["dist"][0.1]) == (76.80, 76.60)
    assert figures.lengths_of_training()["pld"] == {100: 75.72, 300: 76.94}
    homogeneous, heterogeneous = figures.pairs().values()
    assert set(homogeneous) == set(heterogeneous) == {"kd", "dist", "pld"}
    assert homogeneous["pld"]["resnet50 < resnet152"] == heterogeneous["pld"]["resnet152"] == 77.30


def draw(name, out, **options):
    console = Console(record=True, width=200, file=io.StringIO())
    figures.reproduce_figure(name, out, console=console, **options)
    return console.export_text()


def test_a_figure_of_points_is_two_files_and_a_line(tmp_path):
    printed = draw("figure1b", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure1b.png", "figure1b.svg"]
    assert "Measured: not run." in printed
    svg = (tmp_path / "figure1b.svg").read_text(encoding="utf-8")
    assert all(name in svg for name in ("PLD, paper", "CE, paper", "Epochs", "Measured: not run."))
    printed = draw("figure1b", tmp_path, measured={"figure1b": {"pld": {100: Stat(75.0, None, 1)}}})
    assert "not run" not in printed


def test_all_figures_and_what_the_landscapes_hold(tmp_path, monkeypatch):
    asked, drawn = [], []
    monkeypatch.setattr(figures, "run_landscape", lambda *where, console, **how: asked.append((*where, how)))
    monkeypatch.setattr(figures, "write_figure", lambda figure, stem, title: drawn.append(stem.name) or ("svg", "png"))
    draw("all", tmp_path, seed=7, classes=5, points=3)
    assert drawn == ["figure1a", "figure1b", "figure2"]
    how = {"seed": 7, "classes": 5, "points": 3}
    assert asked == [
        (("pld",), (2.0, 1.0, 0.5, 0.1), tmp_path / "figure3", how),
        (("dist", "kd", "pld"), (1.0,), tmp_path / "figure4", how),
    ]


def test_an_unknown_figure_names_the_known(tmp_path):
    with pytest.raises(ValueError, match="unknown figure 'figure5'; did you mean"):
        draw("figure5", tmp_path)
