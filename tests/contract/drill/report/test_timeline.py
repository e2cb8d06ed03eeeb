"""The picture of a run. Here and not in tests/pure because matplotlib keeps a file about fonts."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from sidecar.drill.record import Run
from sidecar.drill.report import timeline, window
from sidecar.drill.report.timeline import PAPERS, Paper
from tests.support import drill_records

MARKER = "{http://www.w3.org/2000/svg}use"
IMAGE = "{http://www.w3.org/2000/svg}image"
WIDE = PAPERS[0]


@pytest.fixture(scope="module")
def spoilt() -> Run:
    return drill_records.wrong_answers()


def drawn(run: Run, paper: Paper = WIDE) -> ET.Element:
    return ET.fromstring(timeline.drawn(run, window.whole(run), paper))  # noqa: S314


def shapes(picture: ET.Element, colour: str) -> int:
    found = (each.attrib.get("style", "") for each in picture.iter(MARKER))
    return sum(colour in style for style in found)


def test_every_failed_and_every_wrong_request_is_a_shape(spoilt: Run) -> None:
    picture = drawn(spoilt)
    assert shapes(picture, f"fill: {timeline.WRONG}") == spoilt.figures.wrong
    assert shapes(picture, f"stroke: {timeline.FAILED}") >= spoilt.figures.failed


def test_points_are_one_image_however_many_there_are() -> None:
    few, many = (drill_records.crash(rate=rate) for rate in (50, 1500))
    sizes = [len(timeline.drawn(run, window.whole(run), WIDE)) for run in (few, many)]
    assert sizes[1] < 500_000
    assert len(list(drawn(many).iter(IMAGE))) == 1


def test_thousands_of_failed_requests_are_part_of_the_image() -> None:
    run = drill_records.crash(rate=100)
    failed = tuple(replace(each, outcome="failed", instance="") for each in run.samples)
    picture = drawn(replace(run, samples=failed))
    assert shapes(picture, f"stroke: {timeline.FAILED}") < 50
    assert len(list(picture.iter(IMAGE))) == 1


def test_the_same_run_is_the_same_picture(spoilt: Run) -> None:
    first, second = (timeline.drawn(spoilt, window.whole(spoilt), WIDE) for _ in range(2))
    assert re.sub(r"image\w+", "", first) == re.sub(r"image\w+", "", second)


def test_pictures_of_one_page_share_no_name(spoilt: Run) -> None:
    texts = [timeline.drawn(spoilt, window.whole(spoilt), paper) for paper in PAPERS]
    named = [set(re.findall(r' id="([^"]*)"', text)) for text in texts]
    assert named[0]
    assert not named[0] & named[1]


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_a_run_with_nothing_in_it_can_be_drawn(paper: Paper) -> None:
    picture = drawn(drill_records.skipped(), paper)
    assert not list(picture.iter(MARKER)) or shapes(picture, timeline.WRONG) == 0


def test_names_of_a_mesh_are_text_and_nothing_else(spoilt: Run) -> None:
    run = replace(spoilt, scenario='<b>"&\\1$x^2$', title="<i>")
    assert drawn(run).attrib["aria-label"].startswith('Latency of the requests of <b>"&\\1$x^2$,')


def test_instances_have_different_colours_and_keep_them() -> None:
    run = drill_records.crash(rate=1)
    colours = [timeline.colour(run, name) for name in drill_records.INSTANCES]
    assert len({*colours, timeline.UNKNOWN, timeline.FAILED, timeline.WRONG}) == 6
    assert timeline.colour(run, "") == timeline.UNKNOWN
