"""The report: one page that holds everything, says what n means, and trusts no name."""

import json
import re
from html.parser import HTMLParser

import pytest

from analysis_runs import make_run
from pldistill.reports.html import shared_and_apart, write_report

POINTERS = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """The page's tags with their attributes, its text by enclosing tag, and whether every tag is closed in order."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", " ".join(data.split())))

    def said(self, tag=None):
        return [text for where, text in self.texts if tag in (None, where)]


def cells(html):
    """Table by table, row by row, the text of each cell."""
    strip = re.compile(r"<[^>]+>")
    return [
        [
            [" ".join(strip.sub(" ", cell).split()) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
            for row in re.findall(r"<tr.*?</tr>", table, re.S)
        ]
        for table in re.findall(r"<table.*?</table>", html, re.S)
    ]


def contest(tmp_path):
    teacher = str(tmp_path / "teacher")
    return [
        make_run(tmp_path / "teacher", student="resnet20", top1=[50.0, 60.0], env={"torch": "2.15.0"}),
        make_run(tmp_path / "ce", top1=[20.0, 30.0]),
        make_run(tmp_path / "pld0", method="pld", teacher=teacher, top1=[20.0, 34.0]),
        make_run(tmp_path / "pld1", method="pld", teacher=teacher, top1=[20.0, 36.0], seed=1),
        make_run(tmp_path / "kd", method="kd", teacher=teacher, top1=[99.0], epochs=2, finished=False),
    ]


def test_the_page_says_what_the_records_say(tmp_path):
    out = write_report(contest(tmp_path), tmp_path / "new" / "report.html", title="Little models")
    assert out == tmp_path / "new" / "report.html"
    page, html = Page(out), out.read_text(encoding="utf-8")
    teachers, results, apart, environments = cells(html)
    assert teachers == [
        ["Run", "Method", "n", "Top-1", "Best", "Time", "Images/s"],
        ["teacher", "ce", "1", "60.00", "60.00", "1 min 0 s", "100"],
    ]
    assert results == [
        ["Method", "Teacher", "n", "Top-1", "Best", "Over CE", "KL", "Time", "Images/s", "So far"],
        ["ce", "", "1", "30.00", "30.00", "", "", "1 min 0 s", "100", ""],
        ["pld", "resnet20", "2", "35.00 ± 1.41", "35.00 ± 1.41", "+5.00", "0.500 ± 0.000", "1 min 0 s", "100", ""],
        ["kd", "resnet20", "", "", "", "", "", "", "", "1/2 epochs"],
    ]
    assert page.said("h3")[:2] == ["resnet20 on digits, 2 epochs", "resnet8 on digits, 2 epochs"]
    assert apart[0] == ["Run", "student", "method", "teacher", "seed"]
    assert apart[1][:3] == ["teacher", "resnet20", "ce"]
    assert environments[0] == ["Run", "torch"]
    assert environments[1] == ["teacher", "2.15.0"]
    assert page.said("h1") == ["Little models"]
    assert "4 finished runs, 1 unfinished run. 3 methods on digits." in page.said("p")
    assert "35.00 ± 1.41 %" in page.said("b")
    assert any("differ in the seed alone" in text for text in page.said("dd"))
    assert "<strong>35.00 ± 1.41</strong>" in html
    assert html.count("<strong>") == 2  # in the finding and in the table


def test_a_command_and_a_curve_for_every_run_teachers_first(tmp_path):
    records = contest(tmp_path)
    page = Page(write_report(records[::-1], tmp_path / "report.html"))
    commands = [line for text in page.said("pre") if "pldistill" in text for line in text.split("pldistill train ")[1:]]
    folders = [re.search(r"(\w+)/recipe.json --out NEW_FOLDER", line) for line in commands]
    assert next(found[1] for found in folders if found) == "teacher"
    assert len(folders) == len(records)
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 4 + len(records)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contest")
    return write_report(contest(folder), folder / "report.html")


def test_the_page_needs_nothing_from_outside(written):
    html = written.read_text(encoding="utf-8")
    page = Page(written)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe", "object", "base", "form")]
    pointing = [(name, value) for _, attrs in page.tags for name, value in attrs.items() if name in POINTERS]
    assert pointing
    assert all(value.startswith("#") for _, value in pointing)
    assert not re.search(r"@import|url\((?!#)", html)
    allowed = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= allowed  # names of XML vocabularies, never fetched
    policy = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_ids_are_unique_and_links_arrive(written):
    page = Page(written)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {value[1:] for _, attrs in page.tags for name, value in attrs.items() if name in POINTERS}
    assert links <= set(ids)


NASTY = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


def test_no_name_becomes_markup(tmp_path):
    runs = [
        make_run(
            tmp_path / "a<script>b",
            student=NASTY,
            method=NASTY,
            teacher=NASTY,
            data=f"folder:{NASTY}",
            options={NASTY: NASTY},
            env={"cpu": NASTY, NASTY: "x"},
        ),
        make_run(tmp_path / "other", student=NASTY, method=NASTY, options={NASTY: 2}, env={"cpu": "b"}),
    ]
    for records in (runs, runs[:1]):
        page = Page(write_report(records, tmp_path / "report.html", title=NASTY))
        assert not [tag for tag, _ in page.tags if tag in ("script", "img")]
        assert page.said("h1") == [NASTY]
        assert page.said("title") == [NASTY]
        assert any(json.dumps(NASTY) in text for text in page.said("pre"))


def test_a_file_name_that_is_not_utf8_does_not_stop_the_page(tmp_path):
    run = make_run(tmp_path / "run", data="folder:/x/\udcff")
    assert "folder:?" in Page(write_report([run], tmp_path / "report.html")).said("p")[0]


def test_one_run(tmp_path):
    html = write_report([make_run(tmp_path / "run")], tmp_path / "report.html").read_text(encoding="utf-8")
    (results,) = cells(html)  # nothing to compare: no table of differences
    assert results[1][:4] == ["run", "ce", "1", "20.00"]
    assert "<strong>" not in html
    assert "1 finished run." in html


def test_a_run_without_an_epoch_yet(tmp_path):
    run = make_run(tmp_path / "run", top1=[], epochs=4, finished=False)
    (tmp_path / "run" / "env.json").unlink()
    page = Page(write_report([run], tmp_path / "report.html"))
    assert "0/4 epochs" in page.said("td")
    assert "Epochs done of those planned, of runs that are not finished. They enter no figure." in page.said("dd")
    assert not [tag for tag, _ in page.tags if tag == "svg"]


def test_a_resumed_run_shows_what_was_new(tmp_path):
    first = {"torch": "2.4.0", "started": "2026-01-01"}
    run = make_run(tmp_path / "run", env=first | {"resumed": [first | {"started": "2026-01-02"}]})
    page = Page(write_report([run], tmp_path / "report.html"))
    assert "resumed 1" in page.said("dt")
    assert "started=2026-01-02" in page.said("dd")


def test_repeated_seeds_are_owned_up_to(tmp_path):
    runs = [make_run(tmp_path / "a", seed=7), make_run(tmp_path / "b", seed=7)]
    page = Page(write_report(runs, tmp_path / "report.html"))
    assert any("more than one run of seed 7" in text for text in page.said("dd"))


def test_the_same_records_give_the_same_page(tmp_path):
    records = contest(tmp_path)[1:3]
    first = write_report(records, tmp_path / "one.html").read_bytes()
    assert write_report(records, tmp_path / "two.html").read_bytes() == first


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="records: expected at least one run record, got none"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(ValueError, match="out: expected the name of a file"):
        write_report([make_run(tmp_path / "run")], tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_what_is_shared_stands_once():
    shared, apart = shared_and_apart([("a", {"x": "1", "y": "2"}), ("b", {"x": "1", "z": "3"})])
    assert shared == {"x": "1"}
    assert apart.to_dict("index") == {"a": {"y": "2", "z": None}, "b": {"y": None, "z": "3"}}


def test_what_ran_away_and_what_was_left_out_is_said(tmp_path):
    about = {"warnings": ["term 'kd' of the loss grew <b>"], "skipped_images": {"train": 3, "val": 1}}
    page = Page(write_report([make_run(tmp_path / "run", result=about)], tmp_path / "report.html"))
    said = page.said()
    assert any("term 'kd' of the loss grew <b>" in text for text in said)
    assert any("3 images of train left out: cannot be read" in text for text in said)
    assert any("1 image of val left out" in text for text in said)
