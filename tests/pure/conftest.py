"""Pure tests do no I/O, and this is checked for each.

Files are the subject of a test marked `files`: settings, canaries, models, the state file. It may
write below `tmp_path`, and wait for the threads that do. A test that needs sockets, processes or
signals belongs in tests/contract.
"""

from collections.abc import Iterator

import pytest

from tests.support.no_io import watched


@pytest.fixture(autouse=True)
def _no_io(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    files = request.node.get_closest_marker("files") is not None
    with watched(monkeypatch, files=files) as found:
        yield
    assert found == [], "a pure test does no I/O: see tests/pure/conftest.py"
