"""The page of a drill in a real browser; what it looks like is kept in `.cache/drill-page/`."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.drill.record import Record, Run
from sidecar.drill.report import page
from tests.support import drill_records
from tests.support.browser import chromium
from tests.support.browser.chromium import Tab

KEPT = Path(__file__).parents[4] / ".cache" / "drill-page"
FAULTS = (Path(chromium.__file__).parent / "faults.js").read_text()
WIDTHS = (320, 375, 768, 1280)


@pytest.fixture(scope="module")
def record() -> Record:
    return drill_records.soaked(
        drill_records.crash(),
        drill_records.wrong_answers(),
        drill_records.aborted(),
        drill_records.flapping(),
        drill_records.skipped(),
    )


@pytest.fixture(scope="module")
def tab(record: Record, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "page.html").write_text(page.render(record))
    with chromium.showing(folder) as shown:
        yield shown


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_fits_and_can_be_read(tab: Tab, width: int) -> None:
    tab.open("page.html", width)
    _keep(f"{width}.png", tab.screenshot())
    found = tab.run(FAULTS)
    assert found.pop("texts") > 200
    assert found == {"faint": [], "wide": [], "overlapping": [], "small": []}


@pytest.mark.parametrize("width", [375, 1280])
def test_every_run_is_there_by_title_and_status_in_words(
    tab: Tab, record: Record, width: int
) -> None:
    tab.open("page.html", width)
    sections = tab.run("[...document.querySelectorAll('article')].map(e => e.innerText)")
    for text, run in zip(sections, _worst_first(record), strict=True):
        head = text.split("Hypothesis.")[0]
        assert run.title in head
        assert run.status in head
        assert run.reason in text


@pytest.mark.parametrize("width", [375, 1280])
def test_the_processes_of_a_soak_are_there_the_growing_one_first(tab: Tab, width: int) -> None:
    tab.open("page.html", width)
    rows = tab.run("[...document.querySelectorAll('.processes tbody tr')].map(e => e.innerText)")
    assert len(rows) == 3
    assert rows[0].split()[:2] == ["xds", "grows"]
    for shown in ("+40.00 MiB", "10 min", "80.0 MiB", "10 → 12"):
        assert shown in rows[0]


def test_it_asks_for_nothing_but_itself_and_runs_no_script(tab: Tab) -> None:
    tab.open("page.html", 1280)
    others = [each for each in tab.requested if not each.startswith("data:image/png;base64,")]
    assert others == ["file:///site/page.html"]
    assert tab.run("document.scripts.length") == 0
    # Nothing may be added by what a mesh says, either.
    assert tab.run("document.querySelectorAll('article b b').length") == 0


def test_every_link_of_the_summary_leads_to_a_run(tab: Tab, record: Record) -> None:
    tab.open("page.html", 375)
    led = "[...document.querySelectorAll('.summary a')].map(e => document.querySelector(e.hash).id)"
    assert sorted(tab.run(led)) == [f"run-{number + 1}" for number in range(len(record.runs))]


def test_print_begins_every_scenario_on_a_new_page(tab: Tab, record: Record) -> None:
    tab.open("page.html", 703)  # A4 without its margins
    tab.print_media("print")
    _keep("print.png", tab.screenshot())
    found = tab.run(FAULTS)
    tab.print_media("")
    assert (found["faint"], found["wide"], found["overlapping"]) == ([], [], [])
    paper = tab.printed()
    _keep("page.pdf", paper)
    sheets = len(re.findall(rb"/Type /Page\b", paper))
    assert sheets > len(record.runs)


def _worst_first(record: Record) -> list[Run]:
    return sorted(
        record.runs, key=lambda run: ["failed", "aborted", "passed", "skipped"].index(run.status)
    )


def _keep(name: str, content: bytes) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / name).write_bytes(content)
