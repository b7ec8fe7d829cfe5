"""Loss landscapes: the plane, the values against formulas, what is at s = t, and the files."""

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from pldistill import losses
from pldistill.models import build, save_folder
from pldistill.record import RunRecord
from pldistill.reports import landscape
from pldistill.reports.landscape import LOSSES, landscapes, make_plane, numbers, random_teacher, reading, surface
from pldistill.reports.plots import write_figure
from pldistill.studies.landscapes import run_landscape


def plane(classes=10, seed=3, points=5):
    teacher = random_teacher(classes, seed)
    return make_plane(teacher, int(teacher.argmax()), seed=seed, points=points)


def logits_at(made, row, column):
    """The student's logits at a grid point, number by number."""
    a, b = (made.length * (place - made.points // 2) * 5 / (made.points // 2) for place in (column, row))
    vectors = (made.teacher.tolist(), made.first.tolist(), made.second.tolist())
    return [t + a * d1 + b * d2 for t, d1, d2 in zip(*vectors, strict=True)]


def softmax(logits, temperature=1.0):
    worths = [math.exp(z / temperature) for z in logits]
    return [worth / sum(worths) for worth in worths]


def test_the_teacher_has_length_one_and_the_directions_are_orthonormal():
    made = plane()
    assert made.length == pytest.approx(1, abs=1e-14)
    directions = torch.stack([made.first, made.second])
    torch.testing.assert_close(directions @ directions.T, torch.eye(2, dtype=torch.float64), atol=1e-14, rtol=0)
    assert made.axis.tolist() == [-5, -2.5, 0, 2.5, 5]


def test_a_and_b_are_in_lengths_of_the_teacher():
    made = make_plane(3 * random_teacher(10, 0), 2, points=3)
    corner = next(made.lines())[0]  # a = b = -5
    torch.testing.assert_close(corner, made.teacher - 15 * (made.first + made.second))


def test_the_seed_decides_the_draw_and_a_teacher_of_a_run_sees_the_same_directions():
    one, same, other = plane(seed=1), plane(seed=1), plane(seed=2)
    for vector in ("teacher", "first", "second"):
        assert torch.equal(getattr(one, vector), getattr(same, vector))
        assert not torch.equal(getattr(one, vector), getattr(other, vector))
    given = make_plane(torch.arange(10.0), 0, seed=1)
    assert torch.equal(given.first, one.first)
    state = torch.get_rng_state()
    plane()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_values_are_those_of_the_formulas(temperature):
    made = plane()
    for row, column in ((0, 0), (1, 4), (2, 2)):
        s, t = logits_at(made, row, column), made.teacher.tolist()
        p, q = softmax(s, temperature), softmax(t, temperature)
        kd = temperature**2 * sum(qi * math.log(qi / pi) for pi, qi in zip(p, q, strict=True))
        assert surface(made, "kd", temperature).values[row, column] == pytest.approx(kd, abs=1e-12)
        order = sorted(range(len(t)), key=lambda i: (i != made.label, -t[i]))
        pld = sum(q[i] * (math.log(sum(math.exp(s[j]) for j in order[k:])) - s[i]) for k, i in enumerate(order))
        assert surface(made, "pld", temperature).values[row, column] == pytest.approx(pld, rel=1e-12)
        u, v = np.array(p) - 0.1, np.array(q) - 0.1
        inter = temperature**2 * (1 - u @ v / (np.linalg.norm(u) * np.linalg.norm(v) + 1e-8))
        assert surface(made, "dist", temperature).values[row, column] == pytest.approx(inter, abs=1e-12)


def test_dist_is_the_loss_of_one_sample_less_its_constant_term():
    made = plane()
    s, t = torch.tensor([logits_at(made, 1, 3)], dtype=torch.float64), made.teacher[None]
    whole = losses.dist(s, t, beta=1, gamma=1, temperature=2.0)
    assert surface(made, "dist", 2.0).values[1, 3] == pytest.approx(float(whole) - 4, abs=1e-12)


@pytest.mark.parametrize("method", sorted(set(LOSSES) - {"pld", "dist"}))
def test_divergences_are_least_and_flat_at_the_teacher(method):
    seen = surface(plane(), method, 1.0)
    assert seen.minimum == (0, 0)
    assert seen.least == seen.center == pytest.approx(0, abs=1e-14)
    assert seen.gradient == pytest.approx(0, abs=1e-14)
    assert seen.curvature > 0
    assert np.delete(seen.values.ravel(), 12).min() > 0


def test_dist_is_least_at_the_teacher_up_to_its_epsilon():
    seen = surface(plane(), "dist", 1.0)
    assert seen.minimum == (0, 0)
    assert 0 < seen.gradient < 1e-4
    assert seen.least == pytest.approx(0, abs=1e-5)


def test_pld_is_not_least_at_the_teacher():
    made = plane(classes=100, seed=0, points=21)
    seen = surface(made, "pld", 1.0)
    s = made.teacher[None].clone().requires_grad_()
    losses.pld(s, made.teacher[None], torch.tensor([made.label])).backward()
    assert seen.gradient == pytest.approx(float(s.grad.norm()))
    assert seen.gradient > 0.05
    in_plane = [float(s.grad[0].double() @ way) for way in (made.first, made.second)]
    assert seen.slope == pytest.approx(math.hypot(*in_plane))
    assert seen.slope > 1e-3
    assert seen.minimum != (0, 0)
    assert seen.least < seen.center


def test_the_curvature_of_kd_is_that_of_log_sum_exp():
    made = plane()
    q = torch.softmax(made.teacher, 0)
    spread = [float((q * way**2).sum() - (q * way).sum() ** 2) for way in (made.first, made.second)]
    assert surface(made, "kd", 1.0).curvature == pytest.approx(sum(spread), rel=1e-6)


def test_numbers_hold_what_a_reader_needs():
    made = plane()
    seen = [surface(made, "pld", 0.5), surface(made, "dist", 0.5)]
    told = json.loads(json.dumps(numbers(made, seen)))
    assert (told["classes"], told["label"], told["teacher_argmax"]) == (10, made.label, made.label)
    assert [each["method"] for each in told["surfaces"]] == ["pld", "dist"]
    assert told["surfaces"][0]["at_teacher"]["gradient_norm"] == seen[0].gradient
    assert len(told["notes"]) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_teacher(1, 0), "classes: expected a whole number from 2, got 1"),
        (lambda: random_teacher(5, -1), "seed: expected a whole number from 0, got -1"),
        (lambda: plane(points=4), "points: expected an odd number"),
        (lambda: plane(points=1), "points: expected a whole number from 3, got 1"),
        (lambda: make_plane(torch.ones(2, 3), 0), r"teacher: expected floating point \(C,\) .* got \(2, 3\)"),
        (lambda: make_plane(torch.zeros(3), 0), "teacher: expected finite logits, not all 0"),
        (lambda: make_plane(torch.tensor([1.0, math.inf]), 0), "teacher: expected finite logits"),
        (lambda: make_plane(torch.ones(3), 3), "label: expected a class from 0 to 2, got 3"),
        (lambda: make_plane(torch.ones(3), True), "label: expected a whole number from 0, got True"),
        (lambda: surface(plane(), "pdl", 1.0), "unknown loss 'pdl'; did you mean pld"),
        (lambda: surface(plane(), "ce", 1.0), "known: dist, dkd, js, kd, pld, plkl, rkl"),
        (lambda: surface(plane(), "kd", 0.0), "temperature must be a positive finite number, got 0.0"),
        (lambda: landscapes(plane(), [], ""), "surfaces: expected at least one, got none"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_reading_tells_the_least_value_from_the_teachers():
    kd, pld = (surface(plane(classes=100, seed=0, points=21), name, 1.0) for name in ("kd", "pld"))
    assert reading(kd) == "○ least 0 at (0, 0)\n+ s = t 0, |∇| 0"
    least, center = reading(pld).split("\n")
    assert "\N{MINUS SIGN}" in least
    assert least.split()[2] != center.split()[4]


def test_panels_mark_the_least_value_and_the_teacher(tmp_path):
    made = plane(points=9)
    seen = [surface(made, "pld", 1.0), surface(made, "pld", 0.1)]
    figure = landscapes(made, seen, "caption", shared=True)
    solids, flats = figure.axes[::2], figure.axes[1::2]
    assert [ax.get_title() for ax in solids] == ["PLD, τ = 1", "PLD, τ = 0.1"]
    spans = [np.ptp(ax.get_zlim()) for ax in solids]
    assert spans[0] == pytest.approx(spans[1])
    for ax, each in zip(flats, seen, strict=True):
        marks = {mark.get_label(): tuple(mark.get_xydata()[0]) for mark in ax.lines}
        assert marks == {"least": each.minimum, "s = t": (0, 0)}
        assert reading(each) in ax.get_xlabel()
    svg, png = write_figure(figure, tmp_path / "new" / "tau", "PLD by temperature")
    assert svg.read_text(encoding="utf-8").startswith('<svg class="curves" role="img" aria-label="PLD by temperature"')
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_flat_loss_is_drawn():
    made = plane(points=3)
    flat = landscape.Surface("kd", 1.0, np.zeros((3, 3)), (0.0, 0.0), 0.0, 0.0, 0.0, 0.0, 0.0)
    assert landscapes(made, [flat], "").axes[0].get_zlim()[0] == pytest.approx(0, abs=0.05)


def stems(folder):
    return sorted(path.name for path in folder.iterdir())


def run(out, methods=("kd", "pld"), temperatures=(1.0,), **options):
    """The surfaces, and what was printed."""
    console = Console(record=True, width=200, file=io.StringIO())
    seen = run_landscape(methods, temperatures, out, points=5, console=console, **options)
    return seen, console.export_text()


@pytest.fixture
def undrawn(monkeypatch):
    """The names of the figures in place of the figures, which take seconds."""
    drawn = []
    monkeypatch.setattr(
        "pldistill.studies.landscapes.landscapes", lambda plane, surfaces, caption, *, shared=False: None
    )
    monkeypatch.setattr(
        "pldistill.studies.landscapes.write_figure", lambda figure, stem, title: drawn.append(stem.name)
    )
    return drawn


def test_files_and_lines(tmp_path, undrawn):
    seen, printed = run(tmp_path, temperatures=(2.0, 0.5), classes=6, seed=4)
    assert undrawn == ["methods-tau-2", "methods-tau-0.5", "kd-by-tau", "pld-by-tau"]
    assert stems(tmp_path) == ["landscape.json", "landscape.npz"]
    told = json.loads((tmp_path / "landscape.json").read_text(encoding="utf-8"))
    assert (told["seed"], told["classes"], told["label"]) == (4, 6, told["teacher_argmax"])
    kept = np.load(tmp_path / "landscape.npz")
    assert {"axis", "teacher", "d1", "d2", "kd_2", "kd_0.5", "pld_2", "pld_0.5"} == set(kept)
    np.testing.assert_array_equal(kept["pld_0.5"], seen[3].values)
    assert printed.startswith(
        f"random teacher of 6 classes, |t| = 1, label {told['label']}, the teacher's first choice"
    )
    assert len(printed.splitlines()) == 6
    assert "kd τ=2       least 0 at (0, 0); s = t 0, |∇| 0 (0 in the plane), curvature" in printed
    again = tmp_path / "again"
    run(again, temperatures=(2.0, 0.5), classes=6, seed=4)
    for name in stems(again):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_one_method_by_temperature_is_one_figure_and_a_label_may_be_named(tmp_path, undrawn):
    run(tmp_path, methods=("pld",), temperatures=(2.0, 1.0), label="3", classes=6)
    assert undrawn == ["pld-by-tau"]
    assert json.loads((tmp_path / "landscape.json").read_text(encoding="utf-8"))["label"] == 3


def model_run(folder, classes=10):
    record = RunRecord(folder)
    record.write_recipe({"data": "digits", "student": "resnet8", "method": "ce", "epochs": 1})
    torch.manual_seed(0)
    names = [str(digit) for digit in range(classes)]
    model = build("resnet8", num_classes=classes)
    save_folder(model, folder, classes=names, mean=(0.5,) * 3, std=(0.5,) * 3, image_size=16)
    return folder


def test_around_what_a_run_says_about_a_image(tmp_path, undrawn):
    folder = model_run(tmp_path / "teacher")
    first, printed = run(tmp_path / "a", run=folder, image=1)
    kept = np.load(tmp_path / "a" / "landscape.npz")
    told = json.loads((tmp_path / "a" / "landscape.json").read_text(encoding="utf-8"))
    assert told["teacher_length"] == pytest.approx(np.linalg.norm(kept["teacher"]))
    assert "resnet8 of run teacher, validation image 1, 10 classes" in printed
    second, _ = run(tmp_path / "b", run=folder, image=2, label="argmax")
    assert first[1].center != second[1].center
    told = json.loads((tmp_path / "b" / "landscape.json").read_text(encoding="utf-8"))
    assert told["label"] == told["teacher_argmax"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ()}, "methods: expected at least one, each once, got none"),
        ({"methods": ("kd", "kd")}, "methods: expected at least one, each once, got kd, kd"),
        ({"temperatures": ()}, "temperatures: expected at least one"),
        ({"methods": ("kd", "fitnet")}, "unknown loss 'fitnet'; known: dist, dkd, js, kd, pld, plkl, rkl"),
        ({"temperatures": (1.0, -1.0)}, "temperature must be a positive finite number, got -1.0"),
        ({"classes": 6, "label": "6"}, "label: expected argmax or a class from 0 to 5, got 6"),
        ({"label": "cat"}, "label: expected argmax or a class from 0 to 99, got 'cat'"),
        ({"run": "nowhere"}, "nowhere"),
    ],
)
def test_bad_requests_write_nothing(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_run_s_image_must_exist_and_its_classes_be_the_datas(tmp_path):
    with pytest.raises(ValueError, match=r"image: expected 0 to .* got -1"):
        run(tmp_path / "out", run=model_run(tmp_path / "ten"), image=-1)
    with pytest.raises(ValueError, match="data 'digits': expected the classes of run"):
        run(tmp_path / "out", run=model_run(tmp_path / "nine", classes=9))
