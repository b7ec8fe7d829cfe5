"""A comparison's tables in each layout, with their teachers, footnotes, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from pldistill.record import METRICS, RunRecord, percent, score_in
from pldistill.reports.comparison import TABLE_METRICS, Comparison, Entry, Facts, Pairs, Panels, Variants, Verdicts
from pldistill.reports.comparison_frames import choose, entry_runs, figure_frame, panel_frame, verdict_frame
from pldistill.reports.render import Document, Section, Table, formatted, minus, plus_minus, signed, spread_texts

PAPER_DIGITS = 2
# A fact's title, what it is, and its unit.
_FACTS = {
    "student_parameters": ("student M", "parameters of the student in millions", 1e6),
    "teacher_parameters": ("teacher M", "parameters of the teacher in millions", 1e6),
    "teacher_top1": ("teacher top-1", "top-1 of the teacher in percent", 1),
}
Cells = dict[tuple[str, str], Sequence[str]]
Marks = dict[tuple[str, str], Sequence[bool]]


def comparison_document(comparison: Comparison) -> Document:
    """What was run, its tables with teachers and footnotes, and how to read them.

    Raises ValueError where an entry's runs may not be averaged, or no variant can be chosen.
    """
    _, notes = _LAYOUTS[type(comparison.layout)]
    sections = tuple(comparison_sections(comparison))
    said = (*notes(comparison, comparison.layout), *comparison.notes)
    return Document(comparison.title, above(comparison), sections, said)


def comparison_sections(comparison: Comparison) -> list[Section]:
    """The tables alone."""
    sections, _ = _LAYOUTS[type(comparison.layout)]
    return sections(comparison, comparison.layout)


def above(comparison: Comparison) -> tuple[str, ...]:
    """What stands above the tables: the label, if there is one, first."""
    published = any(entry.published for entry in comparison.entries)
    searched = isinstance(comparison.layout, Verdicts)  # no repeat of a published table
    less = "" if searched else "Not the published protocol, so no repeat of published figures: "
    lines = [f"{less}{comparison.label}."] if comparison.label else []
    source = [f"Paper: {comparison.published_source}."] if published else []
    return (*lines, f"Protocol: {comparison.protocol}", *source)


# What every layout's tables are made of.


def _table(comparison: Comparison, cells: Cells, bold: Marks) -> Table:
    """The columns side by side, the shorter ones with empty cells below; what is `bold` likewise."""
    frame = pd.DataFrame({title: pd.Series(list(texts), dtype=object) for title, texts in cells.items()}).fillna("")
    marks = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    for title, best in bold.items():
        marks[title] = [*best, *[False] * (len(frame) - len(best))]
    return Table(frame, marks, comparison.mark)


def _counted(line: Mapping[str, Any]) -> str:
    """Finished runs, or finished/planned; empty where nothing was begun and nothing failed."""
    if not line["begun"] and not line["failures"]:
        return ""
    return str(line["n"]) if line["n"] >= line["planned"] else f"{line['n']}/{line['planned']}"


def _counts(lines: pd.DataFrame) -> list[str]:
    """These, with the mark where a figure hides that some runs failed."""
    return [f"{_counted(line)} {line['mark'] if line['n'] else ''}".strip() for line in lines.to_dict("records")]


def _or_failed(texts: Sequence[str], lines: pd.DataFrame) -> list[str]:
    """The figures, or the word where nothing else than failures is there."""
    failed = zip(texts, lines["mark"], lines["n"], strict=True)
    return [f"failed {mark}" if mark and not n else text for text, mark, n in failed]


def _marked(lines: pd.DataFrame, form: str) -> pd.DataFrame:
    """With the column `mark`: a number for each entry in which a run failed; `form` is `({})`, say."""
    failed = lines.loc[lines["failures"] > 0, "entry"].unique().tolist()
    marks = {entry: form.format(number) for number, entry in enumerate(failed, start=1)}
    return lines.assign(mark=[marks.get(entry, "") for entry in lines["entry"]])


def _footnotes(lines: pd.DataFrame, *, columns: bool = False) -> tuple[str, ...]:
    """Why runs failed, a line a mark; with the column's name where the marks are of several."""
    return tuple(
        f"{line['mark']} {line['column'] + ' ' if columns else ''}{line['name']}: "
        f"{line['failures']} of {line['planned']} failed: {line['failed']}"
        for line in lines[lines["mark"] != ""].drop_duplicates("entry").to_dict("records")
    )


def _is_best(means: pd.Series, *, lower: bool = False) -> list[bool]:
    """Where the highest of the means is, or the lowest where that is better; nowhere unless there are two."""
    best = means.min() if lower else means.max()
    return [means.count() > 1 and mean == best for mean in means]


def _within(pairs: Sequence[tuple[str, str]], names: Iterable[str]) -> list[tuple[str, str]]:
    """Those of which both are in the study."""
    return [pair for pair in pairs if set(pair) <= set(names)]


def _less(values: pd.Series, pairs: Sequence[tuple[str, str]], digits: int) -> list[str]:
    """The first's value less the second's, of each pair."""
    return [signed(values[first] - values[second], digits) for first, second in pairs]


def teacher_line(record: RunRecord | None) -> str:
    """How far a teacher's run is, and its top-1 or AP."""
    if record is None:
        return "Teacher: not trained yet."
    recipe, result = record.read_recipe(), record.read_result()
    if result is None:
        return f"Teacher {recipe['student']}: unfinished, {len(record.epochs())} of {recipe['epochs']} epochs done."
    metric, score = score_in(result)
    scored = f"{percent(score)} {METRICS[metric].short}"
    return f"Teacher {recipe['student']}: {scored} after the last of {recipe['epochs']} epochs."


def facts_of(comparison: Comparison, column: str) -> Facts:
    """What the comparison was handed of a column's models; the rest from the records that are finished."""
    given = comparison.facts.get(column, Facts())
    records = [record for entry in comparison.entries if entry.column == column for record in entry.finished[:1]]
    results = [result for record in records if (result := record.read_result())]
    student = next(iter(results), {})
    asked = next((result for result in results if result.get("teacher_parameters") is not None), {})
    record = comparison.teachers.get(column)
    teacher = (record.read_result() if record else None) or {}
    facts = {
        "student_parameters": student.get("parameters"),
        "teacher_parameters": teacher.get("parameters", asked.get("teacher_parameters")),
        "teacher_top1": teacher.get("top1_last", asked.get("teacher_top1")),
    }
    return replace(given, **{name: value for name, value in facts.items() if getattr(given, name) is None})


def _shared_runs(entries: Iterable[Entry]) -> list[str]:
    """A sentence for each set of entries that are the same runs under several names."""
    together: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        together.setdefault(tuple(str(record.folder) for record in entry.records), []).append(entry)
    sentences = []
    for folders, same in together.items():
        one = len({entry.column for entry in same}) == 1
        names = [entry.name if one else f"{entry.name} ({entry.column})" for entry in same]
        sentences += [f"{', '.join(names)}: the same runs."] if folders and same[1:] else []
    return sentences


# Panels: a table a column, last, best and n of each row, and of the variant that was chosen.


def _panels(comparison: Comparison, _: Panels) -> list[Section]:
    lines = panel_frame(comparison)
    return [
        _panel(comparison, column, _marked(lines[lines["column"] == column], "({})")) for column in comparison.columns
    ]


def _panel(comparison: Comparison, column: str, lines: pd.DataFrame) -> Section:
    """A column's teacher, its table, the figures that a variant was chosen by, and why runs failed."""
    rows = lines["row"].unique().tolist()
    swept = lines[lines["row"].isin(lines.loc[lines["variant"] != "", "row"])]
    picks = {row: choose(swept[swept["row"] == row]) for row in swept["row"].unique().tolist()}
    papers = lines[lines["published_mean"].notna()].drop_duplicates("row").set_index("row").reindex(rows)
    cells: Cells = {("", "method"): rows}
    if papers["published_mean"].notna().any():
        cells["paper", ""] = spread_texts(papers["published_mean"], papers["published_std"], PAPER_DIGITS)
    groups = {"measured": lines[lines["variant"] == ""]}
    groups |= {"chosen": lines[lines["entry"].isin(list(picks.values()))]} if picks else {}
    bold: Marks = {}
    for group, part in groups.items():
        texts = {
            "variant": [variant or "default" for variant in part["variant"]],
            "last": _or_failed(spread_texts(part["last_mean"], part["last_std"], 2), part),
            "best": spread_texts(part["best_mean"], part["best_std"], 2),
            "n": _counts(part),
        }
        by_row = pd.DataFrame(texts, index=part["row"], dtype=object).reindex(rows, fill_value="")
        names = texts if group == "chosen" else ("last", "best", "n")
        cells |= {(group, name): by_row[name].tolist() for name in names}
        highest = dict(zip(part["row"], _is_best(part["last_mean"]), strict=True))
        bold[group, "last"] = [highest.get(row, False) for row in rows]
    tables = [_table(comparison, cells, bold), *_held_out(comparison, swept, picks)]
    return Section(column, teacher_line(comparison.teachers.get(column)), tuple(tables), _footnotes(lines))


def _held_out(comparison: Comparison, lines: pd.DataFrame, picks: Mapping[str, int | None]) -> list[Table]:
    """What the choice rests on: top-1 on held-out images by variant, the chosen one bold."""
    if not lines["holdout_last_mean"].notna().any():
        return []
    lines = lines.assign(
        text=spread_texts(lines["holdout_last_mean"], lines["holdout_last_std"], 2),
        best=lines["entry"].isin(list(picks.values())),
    )
    cells: Cells = {("", "method"): list(picks)}
    bold: Marks = {}
    for variant, tried in lines.groupby("variant", sort=False):
        by_row, title = tried.set_index("row"), ("held out", str(variant) or "default")
        cells[title] = by_row["text"].reindex(list(picks), fill_value="").tolist()
        bold[title] = by_row["best"].reindex(list(picks), fill_value=False).tolist()
    return [_table(comparison, cells, bold)]


def _panels_notes(comparison: Comparison, _: Panels) -> list[str]:
    apart = set(entry_runs(comparison).reindex(columns=["holdout_best"])["holdout_best"].notna())
    flattering = "the epoch that is best on the images it is scored on, so it flatters"
    fair = "the epoch that is best on held-out training images"
    best = f"{fair} for runs that held some out, else {flattering}" if len(apart) > 1 else flattering
    notes = [
        "Top-1 in percent, mean ± sample standard deviation over n seeds; the highest last mean is bold.",
        "last: after the last epoch. n: finished runs, or finished/planned. Empty: not run.",
        f"best: {fair if apart == {True} else best}.",
    ]
    if any(entry.variant for entry in comparison.entries):
        by = " with the highest mean on held-out images" if True in apart else ""
        notes.append(f"chosen: of a method's default and variants (scale s: its whole loss times s), the one{by}.")
        notes += ["held out: last top-1 on training images that were held out."] if True in apart else []
    return notes


# Pairs: a line a column, the methods across, their differences beside them.


def _pairs(comparison: Comparison, layout: Pairs) -> list[Section]:
    lines = _marked(figure_frame(comparison, layout.metrics), "[{}]")
    sections = []
    for metric in layout.metrics:
        table = _pairs_table(comparison, layout, metric, lines[lines["metric"] == metric])
        sections.append(Section(TABLE_METRICS[metric].short if len(layout.metrics) > 1 else "", "", (table,)))
    sections[-1] = replace(sections[-1], footnotes=_footnotes(lines, columns=True))
    return sections


def _pairs_table(comparison: Comparison, layout: Pairs, metric: str, lines: pd.DataFrame) -> Table:
    """A line a column, below them the steps and the means; the facts in the first metric's table."""
    digits, first = TABLE_METRICS[metric].digits, metric == layout.metrics[0]
    names = lines["name"].unique()
    measured = [_pairs_cell(line, digits) for line in lines.to_dict("records")]
    lines = lines.assign(text=measured, printed=spread_texts(lines["paper"], lines["paper_std"], PAPER_DIGITS))
    texts, means, printed, papers = (
        lines.pivot(index="column", columns="name", values=values).reindex(comparison.columns, columns=names)
        for values in ("text", "mean", "printed", "paper")
    )
    groups = {
        "measured": _with_differences(layout, texts, means, (digits, digits), {}),
        # A mean of the paper's figures that it does not state itself may end in half of its last digit.
        "paper": _with_differences(
            layout, printed, papers, (PAPER_DIGITS, PAPER_DIGITS + 1), layout.paper_means if first else {}
        ),
    }
    cells: Cells = {("", layout.line): groups["measured"].index.tolist()}
    cells |= _facts(comparison, layout) if first else {}
    for name in groups["measured"]:
        for group, whole in groups.items():
            if group == "measured" or whole[name].ne("").any():
                cells[group, str(name)] = whole[name].tolist()
    best = means.apply(_is_best, axis=1, result_type="broadcast", lower=TABLE_METRICS[metric].lower)
    return _table(comparison, cells, {("measured", str(name)): best[name].eq(True).tolist() for name in best})


def _with_differences(
    layout: Pairs,
    texts: pd.DataFrame,
    values: pd.DataFrame,
    digits: tuple[int, int],
    stated: Mapping[tuple[str, str], float],
) -> pd.DataFrame:
    """The texts of a group with the differences of rows as columns, the steps as lines, and the line of means.

    `digits` are those of a difference and of the mean of some; `stated` are means that take the place of the lines'.
    """
    differences = _within(layout.differences, values.columns)
    steps = _within(layout.steps, values.index)
    bottom = [*(minus(*step) for step in steps), *(["mean"] if layout.mean and differences else [])]
    whole = texts.reindex([*texts.index, *bottom]).fillna("")
    for name in values:
        whole.loc[[minus(*step) for step in steps], name] = _less(values[name], steps, digits[0])
    for first, second in differences:
        gaps = values[first] - values[second]
        column = [*(signed(gap, digits[0]) for gap in gaps), *[""] * len(steps)]
        if "mean" in bottom:
            count, own = gaps.count(), stated.get((first, second))
            some = f" ({count}/{len(gaps)})" if own is None and 0 < count < len(gaps) else ""
            column.append((signed(gaps.mean(), digits[1]) if own is None else signed(own, digits[0])) + some)
        whole[minus(first, second)] = column
    return whole


def _pairs_cell(line: Mapping[str, Any], digits: int) -> str:
    """The figure with the number of its runs; how far it is where there is none yet; `failed` where nothing else is."""
    mark = line["mark"]
    if pd.notna(line["mean"]):
        return f"{plus_minus(line['mean'], line['std'], digits)} ({_counted(line)}) {mark}".rstrip()
    if mark:
        return mark if line["n"] else f"failed {mark}"
    return f"({_counted(line)})" if line["begun"] and not line["n"] else ""


def _facts(comparison: Comparison, layout: Pairs) -> Cells:
    """A column a fact, measured, and the paper's where it has one."""
    facts = [facts_of(comparison, column) for column in comparison.columns]
    cells: Cells = {}
    for name in layout.facts:
        title, _, unit = _FACTS[name]
        for group, prefix in (("measured", ""), ("paper", "paper_")):
            values = [getattr(fact, prefix + name) for fact in facts]
            if group == "measured" or any(value is not None for value in values):
                cells[group, title] = ["" if value is None else f"{value / unit:,.2f}" for value in values]
    return cells


def _pairs_notes(comparison: Comparison, layout: Pairs) -> list[str]:
    differences = _within(layout.differences, [entry.name for entry in comparison.entries])
    notes = [
        *(f"{TABLE_METRICS[name].short}: {TABLE_METRICS[name].meaning}." for name in layout.metrics),
        "After the last epoch, mean ± sample standard deviation (n finished runs, or finished/planned); "
        "the best of a line is bold. Empty: not run, or not measured.",
        *(f"{_FACTS[name][0]}: {_FACTS[name][1]}." for name in layout.facts),
    ]
    if differences:
        notes.append(f"{', '.join(minus(*pair) for pair in differences)}: differences of the means.")
    if differences and layout.mean:
        notes.append(
            "mean: of the differences, measured over the lines that have both figures (lines/all where some have not); "
            "the paper's as it states it, else over its own figures here."
        )
    return [*notes, *_shared_runs(comparison.entries)]


# Variants: a table a column, in it a line a row and its metrics across.


def _variants(comparison: Comparison, layout: Variants) -> list[Section]:
    lines = figure_frame(comparison, layout.metrics)
    sections = []
    for column in comparison.columns:
        part = _marked(lines[lines["column"] == column], "({})")
        table = _variants_table(comparison, layout, part.set_index("name", drop=False))
        sections.append(Section(column, _teachers(comparison, column), (table,), _footnotes(part)))
    return sections


def _teachers(comparison: Comparison, column: str) -> str:
    """The teacher's run where it was trained here, what is known of it where it was not, and the paper's."""
    facts, record = facts_of(comparison, column), comparison.teachers.get(column)
    if record is None and facts.teacher_top1 is not None:
        line = f"Teacher: {facts.teacher_top1:.2f} % top-1."
    else:
        line = teacher_line(record) if column in comparison.teachers else ""
    paper = "" if facts.paper_teacher_top1 is None else f"The paper's teacher: {facts.paper_teacher_top1:.2f} %."
    return f"{line} {paper}".strip()


def _variants_table(comparison: Comparison, layout: Variants, lines: pd.DataFrame) -> Table:
    """A line a row, then a line a difference; `lines` by name."""
    names = lines["name"].unique().tolist()
    pairs = _within(layout.differences, names)
    cells: Cells = {("", "method"): [*names, *(minus(*pair) for pair in pairs)]}
    bold: Marks = {}
    first = lines[lines["metric"] == layout.metrics[0]]
    for metric in layout.metrics:
        part, figure = lines[lines["metric"] == metric], TABLE_METRICS[metric]
        texts = spread_texts(part["mean"], part["std"], figure.digits)
        texts = _or_failed(texts, part) if metric == layout.metrics[0] else texts
        cells["measured", figure.short] = [*texts, *_less(part["mean"], pairs, figure.digits)]
        if layout.ranked:
            bold["measured", figure.short] = _is_best(part["mean"], lower=figure.lower)
        if part["paper"].notna().any():
            printed = spread_texts(part["paper"], part["paper_std"], PAPER_DIGITS)
            cells["paper", figure.short] = [*printed, *_less(part["paper"], pairs, PAPER_DIGITS)]
    if layout.reference in names:
        title = minus(str(layout.reference), "row")
        for group, values, digits in (
            ("measured", first["mean"], TABLE_METRICS[layout.metrics[0]].digits),
            ("paper", first["paper"], PAPER_DIGITS),
        ):
            gaps = (values[layout.reference] - values).where(values.index != layout.reference)
            if group == "measured" or gaps.notna().any():
                cells[group, title] = [signed(gap, digits) for gap in gaps]
    cells["measured", "n"] = _counts(first)
    return _table(comparison, cells, bold)


def _variants_notes(comparison: Comparison, layout: Variants) -> list[str]:
    names = [entry.name for entry in comparison.entries]
    notes = [
        *(f"{TABLE_METRICS[name].short}: {TABLE_METRICS[name].meaning}." for name in layout.metrics),
        f"After the last epoch, mean ± sample standard deviation over n seeds{'; the best is bold' * layout.ranked}.",
        "n: finished runs, or finished/planned. Empty: not run, or not measured.",
    ]
    if layout.reference in names:
        short = TABLE_METRICS[layout.metrics[0]].short
        notes.append(f"{minus(layout.reference, 'row')}: the difference of the means in {short}.")
    if differences := [minus(*pair) for pair in _within(layout.differences, names)]:
        notes.append(f"{', '.join(differences)}: differences of the means.")
    return [*notes, *_shared_runs(comparison.entries)]


# Verdicts: a search's methods, each at its best, and what was tried to find it.


def _verdicts(comparison: Comparison, layout: Verdicts) -> list[Section]:
    lines = verdict_frame(comparison, layout)
    sections = []
    for column in comparison.columns:
        part = _marked(lines[lines["column"] == column], "({})")
        tables = _best_table(comparison, layout, part[part["chosen"]]), _tried_table(comparison, part)
        title = column if len(comparison.columns) > 1 else ""
        sections.append(Section(title, _augmented(comparison.teachers.get(column)), tables, _footnotes(part)))
    return sections


def _augmented(record: RunRecord | None) -> str:
    """The teacher's run, with how much of its training images it has right as they were augmented."""
    line = teacher_line(record)
    rows = record.epochs() if record is not None and record.finished else []
    return f"{line} Of its training images, augmented: {percent(rows[-1]['train_top1'])}." if rows else line


def _best_table(comparison: Comparison, layout: Verdicts, lines: pd.DataFrame) -> Table:
    """The chosen entries, the highest top-1 in bold."""
    gains, halves = lines["difference"], lines["half"]
    cells: Cells = {
        ("", "method"): lines["row"],
        ("chosen", "variant"): lines["variant"],
        ("", "top-1"): spread_texts(lines["top1_mean"], lines["top1_std"], 2),
        ("", f"over {layout.reference} (95 %)"): [
            signed(gain, 2) + ("" if pd.isna(half) else f" ± {half:.2f}")
            for gain, half in zip(gains, halves, strict=True)
        ],
        ("", "verdict"): lines["verdict"].fillna("").mask(lines["row"] == layout.reference, "reference"),
    }
    for name in ("ece", "agreement"):
        figure = METRICS[name]
        cells["", figure.short] = spread_texts(lines[f"{name}_mean"], lines[f"{name}_std"], figure.digits)
    cells["", "label's weight"] = formatted(lines["label_weight_mean"], ".3f")
    cells["", "n"] = [_counted(line) for line in lines.to_dict("records")]
    highest = lines["top1_mean"].eq(lines["top1_mean"].max()).tolist()
    return _table(comparison, cells, {("", "top-1"): highest})


def _tried_table(comparison: Comparison, lines: pd.DataFrame) -> Table:
    """Every setting that was tried, with seed 0's top-1 on the held-out images; what was chosen is bold."""
    scores = zip(lines["first"], lines["failures"], strict=True)
    title = ("", "held out, seed 0")
    cells: Cells = {
        ("", "method"): lines["row"],
        ("tried", "variant"): lines["variant"],
        title: [plus_minus(score, None, 2) or ("failed" if failures else "") for score, failures in scores],
    }
    return _table(comparison, cells, {title: lines["best"].tolist()})


def _verdicts_notes(comparison: Comparison, layout: Verdicts) -> list[str]:
    return [
        "top-1 after the last epoch on the test images, mean ± sample standard deviation over n seeds; the highest "
        "is bold.",
        f"over {layout.reference}: the difference to it seed by seed, mean ± half the width of Student's 95 % "
        "interval; ahead or behind where that leaves 0 out, else not decided.",
        "variant: of what was tried, the best on held-out training images with seed 0 (x: the factor on the whole "
        "loss, term x: on the distillation term alone); the test images had no say.",
        f"ECE: {METRICS['ece'].meaning}.",
        f"agreement: {METRICS['agreement'].meaning}.",
        "label's weight: the part of all weight that the loss gives the label, mean over training images.",
    ]


# Of each layout the sections and the notes, from the comparison and the layout.
_LAYOUTS: Mapping[type, tuple[Callable[[Comparison, Any], list[Section]], Callable[[Comparison, Any], list[str]]]] = {
    Panels: (_panels, _panels_notes),
    Pairs: (_pairs, _pairs_notes),
    Variants: (_variants, _variants_notes),
    Verdicts: (_verdicts, _verdicts_notes),
}
