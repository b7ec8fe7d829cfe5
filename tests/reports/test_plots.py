"""Curves as SVG: well-formed, the same bytes each time, and told apart by every eye on both grounds."""

import itertools
import warnings
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from analysis_runs import make_run
from pldistill.reports import plots
from pldistill.reports.runs import group_runs

SVG = "{http://www.w3.org/2000/svg}"


def groups(tmp_path):
    return group_runs(
        [
            make_run(tmp_path / "ce", top1=[20.0, 30.0, 40.0]),
            make_run(tmp_path / "kd0", method="kd", teacher="t", top1=[25.0, 35.0, 45.0]),
            make_run(tmp_path / "kd1", method="kd", teacher="t", seed=1, top1=[26.0, 36.0, 46.0]),
            make_run(tmp_path / "pld", method="pld", teacher="t", top1=[27.0], epochs=3, finished=False),
        ]
    )


def texts(svg):
    return [text.text for text in ElementTree.fromstring(svg).iter(SVG + "text")]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw(groups(tmp_path_factory.mktemp("runs")))


def draw(made):
    return {
        "last": plots.score_by_method(made),
        "top1": plots.score_by_epoch(made),
        "kl": plots.kl_by_epoch(made),
        "terms": plots.terms_by_epoch(made),
        "run": plots.run_curves(made[0].runs[0], "run"),
    }


def test_every_figure_names_its_lines(drawn):
    found = {name: texts(svg) for name, svg in drawn.items()}
    assert {"ce", "kd", "Validation top-1 after the last epoch (%)"} <= set(found["last"])
    assert "pld" not in found["last"]  # it is not finished
    assert {"ce", "kd", "pld", "Epoch", "Validation top-1 (%)"} <= set(found["top1"])
    assert {"kd", "pld", "KL(teacher ‖ student), nats"} <= set(found["kl"])
    assert "ce" not in found["kl"]  # it has no teacher
    assert [found["terms"].count(name) for name in ("ce", "kd", "pld")] == [2, 2, 2]  # panel and line
    assert [found["run"].count(name) for name in ("training", "validation")] == [2, 2]


def test_figures_are_the_same_bytes_each_time_whatever_the_users_style(tmp_path):
    made = groups(tmp_path)
    before = draw(made)
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "path"}):
        assert draw(made) == before
        assert matplotlib.rcParams["font.size"] == 30
    assert all("<dc:date>" not in svg and svg.startswith("<svg") for svg in before.values())


def test_ids_of_two_figures_do_not_meet(drawn):
    ids = [{element.get("id") for element in ElementTree.fromstring(svg).iter()} - {None} for svg in drawn.values()]
    assert all(ids)
    assert len(set().union(*ids)) == sum(map(len, ids))


def test_references_stay_inside_the_figure(drawn):
    for svg in drawn.values():
        root = ElementTree.fromstring(svg)
        ids = {element.get("id") for element in root.iter()}
        links = [element.get("{http://www.w3.org/1999/xlink}href") for element in root.iter(SVG + "use")]
        assert links
        assert {link[1:] for link in links} <= ids


def test_the_seeds_of_a_group_share_a_color(tmp_path):
    svg = plots.kl_by_epoch(groups(tmp_path)[1:2])
    assert svg is not None
    root = ElementTree.fromstring(svg)
    strokes = [path.get("style", "") for path in root.iter(SVG + "path")]
    used = {light for light, _ in plots.PALETTE if any(f"stroke: {light}" in look for look in strokes)}
    assert used == {plots.PALETTE[0][0]}


def test_nothing_to_draw_is_none(tmp_path):
    made = group_runs([make_run(tmp_path, top1=[], epochs=3, finished=False)])
    assert plots.score_by_epoch(made) is None
    assert plots.score_by_method(made) is None
    assert plots.kl_by_epoch(made) is None
    assert plots.terms_by_epoch(made) is None
    assert plots.run_curves(made[0].runs[0], "run") is None


def test_a_contest_of_one_is_not_drawn_and_two_contests_are_named(tmp_path):
    runs = [
        make_run(tmp_path / f"{student}{lr}", student=student, lr=lr) for student in ("a", "b") for lr in (0.1, 0.2)
    ]
    found = texts(plots.score_by_method(group_runs(runs)))
    assert {"a", "b", "a0.1", "b0.2"} <= set(found)
    assert plots.score_by_method(group_runs([runs[0], runs[2]])) is None


def test_values_that_are_null_are_left_out(tmp_path):
    run = make_run(tmp_path, top1=[10.0, 20.0, 30.0])
    rows = run.epochs()
    rows[1]["top1"] = rows[1]["terms"]["ce"]["weighted"] = None
    run.truncate(0)
    for row in rows:
        run.append_epoch(row)
    (group,) = group_runs([run])
    assert plots.points_of(group.runs[0].epochs, "top1") == ((1, 10.0), (3, 30.0))
    assert plots.points_of(group.runs[0].epochs, "terms", "ce", "weighted") == ((1, 2.0), (3, 2.0 / 3))
    assert plots.points_of(group.runs[0].epochs, "terms", "kd", "weighted") == ()


@pytest.mark.parametrize("student", ["<b>&amp;\"'", "$x^{$", "a\nb\x00c\x1b", "漢字", "n" * 60])
def test_any_name_gives_well_formed_xml(tmp_path, student):
    runs = [make_run(tmp_path / "a", student=student), make_run(tmp_path / "b", student="plain")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for svg in (plots.score_by_epoch(group_runs(runs)), plots.terms_by_epoch(group_runs(runs))):
            assert svg is not None
            clean = "".join(letter if letter.isprintable() else " " for letter in student)
            assert f"a, {clean}" in texts(svg)
        contest = [make_run(tmp_path / f"{i}-0123456789", method=method) for i, method in enumerate((student, "plain"))]
        assert "plain" in texts(plots.score_by_method(group_runs(contest)))


def test_labels_keep_order_and_distance():
    assert plots.spread([0.2, 0.9], 0.1) == [0.2, 0.9]
    assert plots.spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert plots.spread([0.55, 0.5], 0.1) == pytest.approx([0.575, 0.475])
    assert plots.spread([1.0, 1.0, 1.0], 0.1) == pytest.approx([0.8, 0.9, 1.0])
    assert plots.spread([0.0, 0.01, 0.3], 0.1) == pytest.approx([0.0, 0.1, 0.3])
    assert plots.spread([0.3] * 5, 0.9) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert plots.spread([0.4], 0.1) == [0.4]
    assert plots.spread([], 0.1) == []
    random = np.random.default_rng(0)
    for _ in range(50):
        wanted = list(random.random(8))
        places = plots.spread(wanted, 0.11)
        assert np.argsort(places).tolist() == np.argsort(wanted).tolist()
        assert np.diff(sorted(places)).min() > 0.11 - 1e-9
        assert min(places) >= 0
        assert max(places) <= 1 + 1e-9


def linear(color):
    """sRGB "#rrggbb" to linear light (IEC 61966-2-1)."""
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one, two):
    """WCAG 2 contrast ratio."""
    low, high = sorted(linear(color) @ [0.2126, 0.7152, 0.0722] for color in (one, two))
    return (high + 0.05) / (low + 0.05)


# What an eye without the named cone sees, in linear RGB (Machado, Oliveira, Fernandes 2009, severity 1).
EYES = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def oklab(light):
    """Linear RGB to OKLab (Ottosson 2020), where distance is about what the eye sees."""
    to_lms = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    to_lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.9779985, -2.4285922, 0.45059371],
        [0.0259040, 0.78277177, -0.80867577],
    ]
    return np.array(to_lab) @ np.cbrt(np.array(to_lms) @ np.clip(light, 0, 1))


@pytest.mark.parametrize("scheme", [0, 1])
def test_colors_stand_out_from_their_ground(scheme):
    assert all(contrast(pair[scheme], plots.GROUNDS[scheme]) >= 3 for pair in plots.PALETTE)


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("eye", EYES)
def test_colors_stay_apart(scheme, eye):
    seen = [oklab(np.array(EYES[eye]) @ linear(pair[scheme])) for pair in plots.PALETTE]
    assert min(np.linalg.norm(one - two) for one, two in itertools.combinations(seen, 2)) > 0.08
