"""Methods of the logits alone: standardized logits inside a method's own term, and what else its options can say."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F

import reference
from pldistill.methods import METHODS
from pldistill.models import NormalizedModel
from pldistill.recipe import make_recipe
from pldistill.studies.study import recipe_hash
from pldistill.tasks.classification.task import Classification
from pldistill.training.distiller import Distiller
from pldistill.types import Batch, Outputs

STANDARDIZED = ["kd", "rkl", "js", "jsd", "skew_kl", "dist", "dkd", "rld", "pld", "decoupled_pld"]
TEXTBOOK = {
    "kd": reference.kd,
    "rkl": reference.reverse_kl,
    "js": reference.jensen_shannon,
    "dist": reference.dist,
    "dkd": reference.dkd,
}


def draw(rows=6, classes=7):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


def term(name, student, teacher, labels, **options):
    spec = METHODS[name]
    method = spec.build(**spec.complete_options(options))
    (value,) = method(Outputs(student), Outputs(teacher), labels).values()
    return value


def z_scores(logits):
    """By hand, row by row: C - 1 in the deviation's denominator, 1e-7 beside the deviation."""
    scores = []
    for row in logits.tolist():
        mean = sum(row) / len(row)
        deviation = math.sqrt(sum((z - mean) ** 2 for z in row) / (len(row) - 1))
        scores.append([(z - mean) / (1e-7 + deviation) for z in row])
    return torch.tensor(scores, dtype=torch.float64)


def by_hand(student, teacher, labels, weigh):
    """The mean over rows of Σ_k α_k (log Σ_{l>=k} exp s_l - s_k), α = weigh(the row's teacher logits along π*)."""
    losses = []
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        ranking = reference.ranking_of(t, y)
        losses.append(reference.definition(s, ranking, weigh([t[c] for c in ranking]))[0])
    return sum(losses) / len(losses)


def published_positions(t):
    alpha = [2 ** (len(t) - k) - 1 for k in range(1, len(t) + 1)]
    return [a / sum(alpha) for a in alpha]


# The rows of the PLD paper's Table 6, both readings of p-ListMLE included.
TABLE6 = {
    **{
        f"pld {tau}": ("pld", {"temperature": tau}, lambda t, tau=tau: reference.softmax([z / tau for z in t]))
        for tau in (0.5, 1.0, 1.5, 2.0, 4.0)
    },
    "listmle, Sec. 5.2.2": ("listmle", {"weights": "uniform"}, lambda t: [1 / len(t)] * len(t)),
    "listmle, original": ("listmle", {"weights": "sum"}, lambda t: [1.0] * len(t)),
    "p-listmle, Sec. 4.2": ("plistmle", {"normalize": True}, published_positions),
    "p-listmle, Sec. 5.2.2": ("pld", {"temperature": 1.0}, lambda t: [math.exp(z) / sum(map(math.exp, t)) for z in t]),
}


@pytest.mark.parametrize("row", TABLE6)
def test_table_6_can_be_said(row):
    student, teacher, labels = draw()
    name, options, weigh = TABLE6[row]
    expected = by_hand(student, teacher, labels, weigh)
    assert term(name, student, teacher, labels, **options).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("tau_squared", "factor"), [(True, 4), (False, 1)])
@pytest.mark.parametrize("name", ["kd", "rkl", "js"])
def test_table_11_can_be_said_with_and_without_the_squared_temperature(name, tau_squared, factor):
    student, teacher, labels = draw()
    p, q = (student / 2).softmax(dim=1), (teacher / 2).softmax(dim=1)

    def kl(a, b):
        return (a * (a / b).log()).sum(dim=1).mean().item()

    divergence = {"kd": kl(q, p), "rkl": kl(p, q), "js": (kl(q, (p + q) / 2) + kl(p, (p + q) / 2)) / 2}[name]
    measured = term(name, student, teacher, labels, temperature=2.0, tau_squared=tau_squared)
    assert measured.item() == pytest.approx(factor * divergence, rel=1e-9)


def test_the_methods_that_standardize_are_these():
    assert [name for name, spec in METHODS.items() if "standardize" in spec.options] == STANDARDIZED
    assert {METHODS[name].options["standardize"] for name in STANDARDIZED} == {"none"}


@pytest.mark.parametrize("name", TEXTBOOK)
def test_standardized_logits_are_divided_by_the_temperature_afterwards(name):
    student, teacher, labels = draw()
    for choice, ours, theirs in (
        ("both", z_scores(student), z_scores(teacher)),
        ("teacher", student, z_scores(teacher)),
        ("none", student, teacher),
    ):
        expected = TEXTBOOK[name](ours, theirs, labels, temperature=2.0).mean()
        measured = term(name, student, teacher, labels, temperature=2.0, standardize=choice)
        torch.testing.assert_close(measured, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("choice", "both"), [("both", True), ("teacher", False)])
def test_pld_standardized_weighs_by_the_teachers_z_scores(choice, both):
    student, teacher, labels = draw()
    expected = []
    for s, t, raw, y in zip(
        (z_scores(student) if both else student).tolist(),
        z_scores(teacher).tolist(),
        teacher.tolist(),
        labels.tolist(),
        strict=True,
    ):
        ranking = reference.ranking_of(raw, y)  # z-scores keep the order
        weights = reference.softmax([z / 2 for z in t])
        expected.append(reference.definition(s, ranking, [weights[c] for c in ranking])[0])
    measured = term("pld", student, teacher, labels, temperature=2.0, standardize=choice)
    assert measured.item() == pytest.approx(sum(expected) / len(expected), rel=1e-9)


@pytest.mark.parametrize("name", STANDARDIZED)
def test_nothing_standardized_is_the_loss_bit_for_bit(name):
    student, teacher, labels = (tensor.float() if tensor.is_floating_point() else tensor for tensor in draw())
    spec = METHODS[name]
    method = spec.build(**{key: value for key, value in spec.options.items() if key != "standardize"})
    (plain,) = method(Outputs(student), Outputs(teacher), labels).values()
    assert torch.equal(term(name, student, teacher, labels), plain)
    assert torch.equal(method.loss(student, teacher, labels, **method.options), plain)


@pytest.mark.parametrize("name", STANDARDIZED)
def test_a_students_own_scale_is_lost_where_it_is_standardized(name):
    student, teacher, labels = draw()
    once, thrice = (term(name, k * student, teacher, labels, standardize="both") for k in (1, 3))
    torch.testing.assert_close(once, thrice, rtol=1e-6, atol=0)
    assert not torch.isclose(*(term(name, k * student, teacher, labels, standardize="teacher") for k in (1, 3)))


@pytest.mark.parametrize("name", STANDARDIZED)
def test_other_standardizations_and_single_classes_are_refused(name):
    with pytest.raises(ValueError, match=r"unknown option standardize 'techer'; did you mean teacher.*none, teacher"):
        METHODS[name].build(**METHODS[name].complete_options({"standardize": "techer"}))
    student, teacher, _ = draw(classes=1)
    with pytest.raises(ValueError, match="at least 2 classes"):
        term(name, student, teacher, torch.zeros(6, dtype=torch.int64), standardize="both")


def test_the_tasks_own_loss_is_of_the_raw_logits():
    _, teacher, labels = draw()
    torch.manual_seed(0)
    model = NormalizedModel(timm.create_model("resnet8", num_classes=7), mean=(0.5,) * 3, std=(0.25,) * 3)
    images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    batch = Batch(images, labels, torch.arange(6), view=0)
    steps = []
    for choice in ("none", "both"):
        method = METHODS["pld"].build(temperature=4.0, standardize=choice)
        distiller = Distiller(model, method, Classification())
        steps.append(distiller(batch, lambda batch: Outputs(teacher), {"task": 1.0, "pld": 1.0}).raw)
    assert torch.equal(steps[0]["task"], F.cross_entropy(model.train()(images).logits, labels))
    assert torch.equal(steps[0]["task"], steps[1]["task"])
    assert steps[0]["pld"] != steps[1]["pld"]


def test_options_at_their_default_have_no_part_in_an_address():
    fields = {"data": "glyphs", "student": "resnet8", "method": "pld", "teacher": "t"}
    teacher = make_recipe({"data": "glyphs", "student": "resnet8", "method": "ce"})
    plain, said, other = (
        recipe_hash(make_recipe({**fields, "options": options}), teacher)
        for options in ({}, {"standardize": "none", "temperature": 1}, {"standardize": "both"})
    )
    assert plain == said != other
    before = make_recipe({**fields, "options": {}}).model_copy(update={"options": {"temperature": 1.0}})
    assert recipe_hash(before, teacher) == plain
