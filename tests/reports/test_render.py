"""One table in every form: numbers, alignment, the best in bold, escaped texts, and a terminal that is too narrow."""

import csv
import io

import pandas as pd
import pytest

from layout_cases import printed
from pldistill.reports.render import (
    Document,
    Section,
    Table,
    csv_text,
    formatted,
    html_section,
    html_table,
    markdown,
    markdown_table,
    minus,
    plus_minus,
    signed,
    spread_texts,
)

MINUS = "\N{MINUS SIGN}"
NASTY = "a|b <i>*`\nc"


def table(**given):
    columns = {
        ("", "method"): ["kd", NASTY],
        ("chosen", "variant"): ["x4", ""],
        ("measured", "last"): ["41.00 ± 1.00", "40.00"],
        ("measured", "n"): ["2", "1"],
        ("paper", ""): ["", "69.45"],
    }
    frame = pd.DataFrame(columns, dtype=object)
    bold = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    bold.loc[0, ("measured", "last")] = True
    return Table(frame, bold, **given)


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        ((1234.567, 0.25, 2), "1,234.57 ± 0.25"),
        ((1.0, None, 1), "1.0"),
        ((1.0, float("nan"), 1), "1.0"),
        ((float("nan"), 1.0, 1), ""),
        ((None, None, 1), ""),
        ((2.0, 0.0, 0), "2 ± 0"),
    ],
)
def test_a_mean_and_its_deviation(figure, text):
    assert plus_minus(*figure) == text
    mean, std, digits = figure
    assert spread_texts(pd.Series([mean], dtype=float), pd.Series([std], dtype=float), digits) == [text]


def test_numbers_in_a_format_and_nothing_for_none():
    assert formatted([1234.5, "2", "", None, float("nan")], ",.1f") == ["1,234.5", "2.0", "", "", ""]


def test_a_difference_has_a_sign():
    assert [signed(value, 2) for value in (1.0, -0.5, 0.0, None, float("nan"))] == [
        "+1.00",
        f"{MINUS}0.50",
        "+0.00",
        "",
        "",
    ]
    assert minus("pld", "kd") == f"pld {MINUS} kd"


def test_markdown_aligns_numbers_marks_the_best_and_escapes():
    assert markdown_table(table(label="short")).split("\n") == [
        "| method | chosen | measured last (short) | n | paper |",
        "| --- | --- | ---: | ---: | ---: |",
        "| kd | x4 | **41.00 ± 1.00** | 2 |  |",
        r"| a\|b \<i>\*\` c |  | 40.00 | 1 | 69.45 |",
    ]
    assert "short" not in markdown_table(table())


def test_html_has_a_line_of_groups_where_there_are_some():
    text = html_table(table(label="short"))
    assert text.count("<tr>") == 4
    assert '<th scope="colgroup" class="" colspan="2">measured, short</th>' in text
    assert '<th scope="colgroup" class="number" colspan="1">paper</th>' in text
    assert '<td class="number"><strong>41.00 ± 1.00</strong></td>' in text
    assert '<td class="">x4</td>' in text
    assert "a|b &lt;i&gt;" in text
    assert html_table(Table.of(pd.DataFrame({"a": ["1"]}))).count("<tr>") == 2


def test_a_table_without_groups_has_its_titles_and_words():
    frame = pd.DataFrame({"method": ["kd"], "why": ["so"], "n": ["3"]})
    made = Table.of(frame, pd.DataFrame({"n": [True]}), words=["why"])
    assert markdown_table(made).split("\n") == ["| method | why | n |", "| --- | --- | ---: |", "| kd | so | **3** |"]


def test_csv_is_in_full_precision_and_empty_where_nothing_is_known():
    frame = pd.DataFrame({"row": ['a,"b', "c"], "mean": [1 / 3, None], "n": [3, 0], "chosen": [True, False]})
    lines = list(csv.DictReader(io.StringIO(csv_text(frame))))
    assert float(lines[0]["mean"]) == 1 / 3
    assert lines[0]["row"] == 'a,"b'
    assert lines[1] == {"row": "c", "mean": "", "n": "0", "chosen": "False"}
    assert "\r" not in csv_text(frame)


def test_a_document_is_headings_tables_and_notes_in_every_form():
    section = Section("Section", "Said.", (table(),), ("(1) failed",), level=4)
    document = Document("Title", ("Above.",), (section,), ("A note.",))
    text = markdown(document)
    assert text.startswith("## Title\n\nAbove.\n\n#### Section\n\nSaid.\n\n| method |")
    assert text.endswith("\n\n- (1) failed\n\nHow to read it:\n\n- A note.\n")
    page = html_section(document)
    for form in (page, printed(document, 80)):
        places = [
            form.index(said) for said in ("Title", "Above.", "Section", "Said.", "41.00", "(1) failed", "A note.")
        ]
        assert places == sorted(places)
    assert "<h4>Section</h4>" in page
    assert "How to read it" not in markdown(Document("", (), (section,)))


@pytest.mark.parametrize("width", [30, 40, 80])
def test_a_terminal_of_any_width_has_every_cell_whole_and_the_words_in_each_part(width):
    columns = {f"a title of column {number}": [f"{number}0.00 ± 0.01"] for number in range(1, 9)}
    long = "a name of many words that is folded here"
    frame = pd.DataFrame({"method": [long], "variant": ["x4"], **columns})
    text = printed(Document("", (), (Section("", tables=(Table.of(frame, words=["variant"]),)),)), width)
    assert max(map(len, text.split("\n"))) <= width
    assert "…" not in text
    for number in range(1, 9):
        assert text.count(f"{number}0.00 ± 0.01") == 1
    parts = text.count("method")
    assert parts > 1
    assert text.count("folded") == parts
    assert text.count("x4") == (
        1 if width == 30 else parts
    )  # words stand in each part where they leave it half its room
