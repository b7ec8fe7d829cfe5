"""The table of any runs: a line for each group of them that differs in the seed alone, beside cross-entropy's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from pldistill.record import duration, score_of
from pldistill.reports.render import Document, Section, Table, formatted, signed, spread_texts
from pldistill.reports.runs import Group, run_frame, wide_figures
from pldistill.tasks.registry import DEFAULT, METRICS, TASKS
from pldistill.tasks.spec import TaskSpec

# A method's own choices: what a row and the cross-entropy row that it is measured against may differ in.
_OF_THE_METHOD = ("method", "teacher", "teacher_checkpoint", "teacher_sha256", "options", "weights")
_SPEEDS = ("seconds", "images_per_second")
_IDENTITY = ("data", "student", "epochs", "teacher", "setting")
_BLOCK = ["data", "student", "epochs"]


def summarize(groups: Sequence[Group]) -> pd.DataFrame:
    """A line a group: blocks (data, student, epochs) of teachers first, in them cross-entropy, then by mean `score`.

    `n` finished runs of `seeds`, `repeated_seeds` among them; `FIGURE_mean` and `FIGURE_std` over these, NaN unless
    each has it: accuracies and APs in percent, `kl_last` in nats, `seconds` of a whole run; the two speeds also where
    the runs were made on different machines. `score` is what the group is `ranked_by`, `over_ce` its difference to the
    cross-entropy with the same recipe but for the method and what belongs to it; `best` the best of its block.
    """
    places = [(at, run) for at, group in enumerate(groups) for run in group.runs]
    runs = run_frame(run for _, run in places).assign(group=[at for at, _ in places])
    done = runs[runs["finished"]]
    names = [key for spec in TASKS.values() for key in (*_keys(spec), f"teacher_{spec.score}")] + list(_SPEEDS)
    lines = pd.DataFrame([_identity(group) for group in groups])
    lines = lines.join(wide_figures(done, "group", {name: name for name in names}))
    moved = done.groupby("group")["machine"].nunique().reindex(lines.index) > 1
    speeds = [f"{name}_{part}" for name in _SPEEDS for part in ("mean", "std")]
    lines.loc[moved, speeds] = float("nan")
    lines["score"] = float("nan")
    for spec in TASKS.values():
        ours, taught = lines["ranked_by"] == spec.score, lines[f"teacher_{spec.score}_mean"]
        lines["score"] = lines["score"].where(~ours, lines[f"{spec.result_key(spec.score)}_mean"])
        scored = ours & lines["teacher"].notna() & taught.notna()
        lines.loc[scored, "teacher"] += [f" ({spec.metrics[spec.score].show(value)})" for value in taught[scored]]
    ce = lines[lines["method"] == "ce"].drop_duplicates("baseline", keep=False).set_index("baseline")["score"]
    lines["over_ce"] = (lines["score"] - lines["baseline"].map(ce)).where(lines["method"] != "ce")
    scores = lines.groupby(_BLOCK)["score"]
    lower = lines["ranked_by"].map(lambda name: METRICS[name].lower)
    extreme = scores.transform("max").where(~lower, scores.transform("min"))
    lines["best"] = (scores.transform("count") > 1) & (lines["score"] == extreme)
    lines["taught"] = ~lines.groupby(_BLOCK)["teaches"].transform("any")
    lines["block"] = lines.groupby(_BLOCK, sort=False).ngroup()
    lines["learns"] = lines["method"] != "ce"
    lines["rank"] = (
        lines["score"].where(lower, -lines["score"]).fillna(math.inf)
    )  # the best first, unfinished ones last
    return lines.sort_values(["taught", "block", "learns", "rank", "name"]).reset_index(drop=True)


def _keys(spec: TaskSpec) -> list[str]:
    """The keys of result.json that the table has of a task's runs: the score, its best, the other metrics."""
    score, *others = (spec.result_key(name) for name in spec.summary)
    return [score, f"{spec.score}_best", *others]


def _identity(group: Group) -> dict[str, object]:
    done = [run for run in group.runs if run.result is not None]
    seeds = [run.seed for run in done]
    settings = group.runs[0].settings
    return {
        "group": group,
        "name": group.name,
        "method": group.method,
        "student": group.student,
        "teacher": group.teacher,
        "data": group.data,
        "epochs": group.epochs,
        "setting": group.setting,
        "n": len(done),
        "seeds": " ".join(seeds),
        "repeated_seeds": ", ".join(sorted({seed for seed in seeds if seeds.count(seed) > 1})),
        "unfinished": ", ".join(f"{len(run.epochs)}/{run.planned} epochs" for run in group.runs if run.result is None),
        "waiting": len(group.runs) - len(done),
        "ranked_by": score_of(group.runs[0].recipe),
        "teaches": group.teaches,
        "baseline": str(sorted((k, v) for k, v in settings.items() if k.partition(".")[0] not in _OF_THE_METHOD)),
    }


def summary_csv(lines: pd.DataFrame) -> pd.DataFrame:
    """All figures in full precision, means and deviations in columns of their own."""
    usual = TASKS[DEFAULT]
    others = [spec for spec in TASKS.values() if spec is not usual and (lines["ranked_by"] == spec.score).any()]
    names = [*_keys(usual), *_SPEEDS, *(key for spec in others for key in _keys(spec))]
    spread = [f"{name}_{part}" for name in names for part in ("mean", "std")]
    identity = ["method", "student", "teacher", "data", "epochs", "setting"]
    return lines[[*identity, "n", "seeds", *spread, "over_ce", "unfinished"]]


def summary_texts(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines' numbers as texts under the titles of their columns, empty where unknown."""

    def figure(spec: TaskSpec, name: str) -> list[str]:
        key = spec.result_key(name)
        return spread_texts(lines[f"{key}_mean"], lines[f"{key}_std"], spec.metrics[name].digits)

    bests = [
        spread_texts(lines[f"{spec.score}_best_mean"], lines[f"{spec.score}_best_std"], 2) for spec in TASKS.values()
    ]
    others = [(spec, name, metric) for spec in TASKS.values() for name, metric in list(spec.summary.items())[1:]]
    others.sort(key=lambda found: found[2].unit != "%")  # stable: what is no percentage comes last
    columns = {
        "n": [str(n or "") for n in lines["n"]],
        **{spec.metrics[spec.score].heading: figure(spec, spec.score) for spec in TASKS.values()},
        "Best": [next(filter(None, texts), "") for texts in zip(*bests, strict=True)],
        "Over CE": [signed(gain, 2) for gain in lines["over_ce"]],
        **{metric.heading: figure(spec, name) for spec, name, metric in others},
        "Time": ["" if pd.isna(mean) else duration(mean) for mean in lines["seconds_mean"]],
        "Images/s": formatted(lines["images_per_second_mean"], ",.0f"),
    }
    return pd.DataFrame(columns, index=lines.index, dtype=object)


def summary_document(lines: pd.DataFrame) -> Document:
    """What all lines share in a sentence, then the table of what they do not, the best in bold; no empty columns.

    Raises ValueError where there is no line.
    """
    if lines.empty:
        raise ValueError("lines: expected at least one, got none")
    identity = lines[list(_IDENTITY)].fillna("").astype(str)
    varying = identity.columns[identity.nunique() > 1]
    shared = ", ".join(f"{name} {value}" for name, value in identity.drop(columns=varying).iloc[0].items() if value)
    words = identity[varying].rename(columns=str.capitalize)
    named = [lines["name"].rename("Run")] if (lines["name"] != lines["method"]).any() else []
    method, left = lines["method"].rename("Method"), lines["unfinished"].rename("So far")
    frame = pd.concat([*named, method, words, summary_texts(lines), left], axis=1)
    frame = frame.loc[:, (frame != "").any()]
    bold = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    for spec in TASKS.values():
        if (heading := spec.metrics[spec.score].heading) in bold:
            bold[heading] = lines["best"] & (lines["ranked_by"] == spec.score)
    table = Table.of(frame, bold, words=("Method", *words, "So far"))
    return Document("", (shared[:1].upper() + shared[1:],) if shared else (), (Section("", tables=(table,)),))
