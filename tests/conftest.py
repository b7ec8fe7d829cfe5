"""Fixtures that several files share."""

import pytest


@pytest.fixture(params=["chosen by range", "always logarithmic"])
def scan(request, monkeypatch):
    """Both ways through the sums: what eager CPU tensors choose by range, and that of compiled graphs and devices."""
    if request.param == "always logarithmic":
        monkeypatch.setattr("pldistill.losses._plackett_luce._LINEAR_RANGE", -1.0)
