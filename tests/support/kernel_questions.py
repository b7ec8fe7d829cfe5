"""What a kernel of PLD is asked: small rows, each hard in its own way, and what the plain version says of them."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import reference
from numeric_cases import CASES
from pldistill.losses import pld


@dataclass(frozen=True)
class Question:
    student: Tensor
    teacher: Tensor
    labels: Tensor
    temperature: float = 1.0
    ignore_index: int = -100
    reduction: str = "none"

    def __iter__(self):
        return iter(vars(self).values())

    def plain(self) -> tuple[Tensor, Tensor]:
        """What the plain version says, which is who takes float64; rounded to float32."""
        student = self.student.double().requires_grad_()
        options = {"temperature": self.temperature, "ignore_index": self.ignore_index, "reduction": self.reduction}
        loss = pld(student, self.teacher.double(), self.labels, **options)
        return loss.detach().float(), torch.autograd.grad(loss.sum(), student)[0].float()


def drawn(rows: int, classes: int, scale: float = 3.0, **options) -> Question:
    generator = torch.Generator().manual_seed(classes)
    student, teacher = (scale * torch.randn(rows, classes, generator=generator) for _ in range(2))
    return Question(student, teacher, torch.randint(classes, (rows,), generator=generator), **options)


def hard(case, classes: int, rows: int) -> Question:
    """The first rows of a case of the numeric table, of fewer classes."""
    student, teacher, labels = replace(case, classes=classes).tensors()
    return Question(student[:rows], teacher[:rows], labels[:rows], case.temperature)


def masked() -> Question:
    """Classes 1 and 4 masked in both nets, in all rows; class 2 in the teacher alone; -1e9 for a mask in the last."""
    asked = drawn(4, 9)
    asked.labels.copy_(torch.tensor([0, 3, 5, 8]))
    for z in (asked.student, asked.teacher):
        z[:3, [1, 4]] = -math.inf
        z[3, [1, 4]] = -1e9
    asked.teacher[1, 2] = -math.inf
    return asked


def impossible() -> Question:
    """A class of weight that the student masks: the label, the last of the ranking, one between; then all of them."""
    asked = drawn(5, 6)
    for row, place in ((0, 0), (1, 5), (3, 2)):
        ranking = reference.ranking_of(asked.teacher[row].tolist(), asked.labels[row].item())
        asked.student[row, ranking[place]] = -math.inf
    asked.student[4] = -math.inf
    return asked


def tied(dtype: torch.dtype) -> Question:
    """Four values, both zeros among them, over 15 classes."""
    asked = drawn(2, 15)
    values = torch.tensor([-1.5, -0.0, 0.0, 2.5])
    teacher = values[torch.randint(4, (2, 15), generator=torch.Generator().manual_seed(0))]
    return replace(asked, teacher=teacher.to(dtype))


def everywhere() -> Question:
    """Every class is the label of a row; the teacher's logits ascend."""
    asked = drawn(5, 5)
    return replace(asked, teacher=torch.arange(5.0).expand(5, 5), labels=torch.arange(5))


def sure() -> Question:
    """A student so sure of the whole ranking that loss and gradient are small differences, written naively."""
    asked = drawn(4, 6)
    for row in range(4):
        ranking = reference.ranking_of(asked.teacher[row].tolist(), asked.labels[row].item())
        asked.student[row, ranking] = -torch.arange(6.0) * (4 + 3 * row)
    return asked


def spoilt() -> Question:
    """NaN and infinity in a row each, and twice in rows that are left out; then a label that is no class."""
    asked = drawn(7, 5)
    asked.student[0, 2], asked.teacher[1, 3], asked.student[5, 1] = math.nan, math.inf, math.inf
    asked.student[2], asked.teacher[3] = math.nan, math.nan
    asked.labels[2] = asked.labels[3] = -100
    asked.labels[6] = 5
    return asked


def partly(reduction: str, ignore_index: int = -100) -> Question:
    asked = drawn(4, 13, reduction=reduction, ignore_index=ignore_index)
    asked.labels.copy_(torch.tensor([3, ignore_index, 12, 0]))
    return asked


def scattered() -> Question:
    """Rows apart from each other in the student, classes apart from each other in the teacher."""
    asked = drawn(3, 11)
    wide = torch.full((3, 17), math.nan)
    wide[:, 4:15] = asked.student
    return replace(asked, student=wide[:, 4:15], teacher=asked.teacher.T.contiguous().T, labels=asked.labels.int())


TABLE = {case.name: case for case in CASES if case.classes <= 100}
HALF = {
    f"{student}, {teacher}": Question(asked.student.to(student), asked.teacher.to(teacher), asked.labels, 2.0)
    for student, teacher in (
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.float32),
    )
    for asked in (drawn(1, 14),)
}
PLAIN = {
    "masked": masked(),
    "tied float32": tied(torch.float32),
    "tied bfloat16": tied(torch.bfloat16),
    "every label": everywhere(),
    "scattered": scattered(),
    "mean": partly("mean"),
    "sum": partly("sum", ignore_index=2),
    "one class": drawn(2, 1),
    "wide teacher": replace(drawn(2, 12), teacher=1e30 * drawn(2, 12).student),
    **HALF,
}
OTHERS = {
    "odd": drawn(1, 99),
    "full": drawn(1, 32),
    "bfloat16 mean": replace(HALF["torch.bfloat16, torch.bfloat16"], reduction="mean"),
    "impossible": impossible(),
    "sure": sure(),
    "spoilt": spoilt(),
    "nobody": replace(drawn(2, 3, reduction="mean"), labels=torch.tensor([-100, -100])),
    "no row, mean": drawn(0, 3, reduction="mean"),
    "no row": drawn(0, 3),
}
TABLE_ROWS = {name: hard(case, min(case.classes, 15), 2) for name, case in TABLE.items()}
