"""What the documents say is what the code prints and the records show."""

import contextlib
import io
import re
import runpy

from places import ROOT


def test_every_table_is_what_the_records_show():
    documents = runpy.run_path(str(ROOT / "docs" / "write_results.py"))["documents"]()
    for path, text in documents.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run docs/write_results.py"


def test_the_first_code_of_the_readme_prints_what_it_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) == 6
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().strip() == code.splitlines()[-1].partition("# ")[2]


def test_links_in_the_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 50
