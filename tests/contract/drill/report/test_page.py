"""The page of a drill as text; test_page_in_browser.py looks at it."""

import importlib.util
import re
from dataclasses import replace
from importlib.machinery import ModuleSpec

import pytest

from sidecar.drill.record import Violation
from sidecar.drill.report import page
from sidecar.runtime.errors import PartMissing
from tests.support import drill_records


def test_without_its_libraries_one_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec

    def without(name: str) -> ModuleSpec | None:
        return None if name == "matplotlib" else found(name)

    monkeypatch.setattr(page, "find_spec", without)
    with pytest.raises(PartMissing) as raised:
        page.render(drill_records.record())
    assert str(raised.value) == (
        "the page of a drill needs matplotlib:"
        " `pip install 'triton-sidecar[drill]'` installs what is missing"
    )


def test_what_a_mesh_says_is_text_and_never_html() -> None:
    evil = "<script>alert(1)</script>"
    run = replace(
        drill_records.skipped(),
        scenario=evil,
        title=evil,
        hypothesis=evil,
        reason=evil,
        victim=evil,
        violations=(Violation(evil, evil, evil),),
    )
    text = page.render(drill_records.record(run))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 8


def test_only_a_soak_has_a_table_of_processes() -> None:
    assert "<h2>Processes</h2>" not in page.render(drill_records.record(drill_records.skipped()))
    text = page.render(drill_records.soaked(drill_records.skipped()))
    assert re.findall(r'<td class="status(?: unmet)?">(.*)</td>', text)[-3:] == [
        "grows",
        "flat",
        "too short-lived",
    ]


def test_a_page_names_no_other_place() -> None:
    text = page.render(drill_records.record())
    allowed = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")
    for name in allowed:
        text = text.replace(name, "")
    assert "://" not in text


def test_the_worst_runs_come_first() -> None:
    record = drill_records.record()
    assert page.headline(record) == "1 failed, 1 aborted, 1 passed, 1 skipped"
    text = page.render(record)
    places = [text.index(f'<article id="run-{number}"') for number in (2, 3, 1, 4)]
    assert places == sorted(places)


def test_a_record_without_runs_has_a_page() -> None:
    assert page.headline(replace(drill_records.record(), runs=())) == "nothing was run"
    assert "nothing was run" in page.render(replace(drill_records.record(), runs=()))


def test_of_many_runs_the_worst_and_the_first_rounds_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page, "MOST_DRAWN", 2)
    rounds = [drill_records.crash(number, rate=2) for number in (1, 2)]
    text = page.render(drill_records.record(*rounds, drill_records.wrong_answers()))
    sections = re.findall(r'<article id="(.*?)".*?</article>', text, re.DOTALL)
    bodies = re.findall(r"<article .*?</article>", text, re.DOTALL)
    drawn = [name for name, body in zip(sections, bodies, strict=True) if "<figure>" in body]
    assert drawn == ["run-3", "run-1"]
    assert "Not drawn: this page has pictures of 2 runs" in bodies[-1]
