"""Every test of either end of the link runs with packed records and without."""

from __future__ import annotations

import pytest

from support import fake_link
from tidegate.link.versions import RECORDS_VERSION


@pytest.fixture(params=[RECORDS_VERSION - 1, RECORDS_VERSION], ids=["v3", "v4"], autouse=True)
def spoken_version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The newest version of the link that the fakes speak."""
    version: int = request.param
    monkeypatch.setattr(fake_link, "spoken_version", version)
    return version
