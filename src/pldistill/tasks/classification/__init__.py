"""Image classification as data: its metrics; `task` has the rest."""

from pldistill.methods import METHODS
from pldistill.tasks.spec import Metric, TaskSpec

SPEC = TaskSpec(
    module="pldistill.tasks.classification.task",
    methods=METHODS,
    metrics={
        "top1": Metric(
            "top-1",
            "validation images whose class is the first answer, in percent",
            title="Top-1",
            in_progress=True,
        ),
        "top5": Metric(
            "top-5", "validation images whose class is among the first five answers, in percent", title="Top-5"
        ),
        "kl": Metric(
            "KL",
            "KL(teacher ‖ student) on the validation set at temperature 1, in nats; lower is closer",
            3,
            lower=True,
            unit="nats",
            in_progress=True,
        ),
        "agreement": Metric(
            "agreement",
            "validation images to which both models give the same class first, in percent",
            in_summary=False,
        ),
        "overlap5": Metric(
            "top-5 overlap",
            "of the teacher's first five classes those among the student's first five, in percent",
            in_summary=False,
        ),
        "kendall": Metric(
            "Kendall τ",
            "Kendall's tau-b of the two models' rankings of all classes, -1 to 1",
            3,
            unit="",
            in_summary=False,
        ),
        "ece": Metric(
            "ECE",
            "expected calibration error, 15 equal bins of the largest probability, in percent; lower is better",
            lower=True,
            in_summary=False,
        ),
    },
    score="top1",
    predictions="classes",
)
