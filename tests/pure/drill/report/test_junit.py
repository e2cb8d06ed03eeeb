"""JUnit XML, as Jenkins' schema junit-10.xsd and most readers of it expect."""

import xml.etree.ElementTree as ET
from dataclasses import replace

from sidecar.drill.record import Record
from sidecar.drill.report import junit
from tests.support import drill_records

# What the schema has: the attributes that must be there, those that may, and the children.
SCHEMA = {
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"time", "skipped", "timestamp"},
        {"properties", "testcase"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": ({"name"}, {"time", "classname"}, {"failure", "skipped", "system-out"}),
    "failure": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"message"}, set()),
    "system-out": (set(), set(), set()),
}


def suite(record: Record | None = None) -> ET.Element:
    return ET.fromstring(junit.render(record or drill_records.record()))  # noqa: S314


def test_the_text_follows_the_schema() -> None:
    found = suite()
    assert found.tag == "testsuite"
    for each in found.iter():
        must, may, children = SCHEMA[each.tag]
        assert must <= set(each.attrib) <= must | may
        assert {child.tag for child in each} <= children


def test_there_is_a_case_for_each_run_and_the_counts_agree() -> None:
    found = suite()
    cases = {case.attrib["name"]: [child.tag for child in case] for case in found.iter("testcase")}
    assert cases == {
        "crash (round 1)": ["system-out"],
        "wrong-answers (round 1)": ["failure", "system-out"],
        "freeze (round 1)": ["failure", "system-out"],
        "consul-leader (round 1)": ["skipped"],
    }
    counts = {name: found.attrib[name] for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "2", "errors": "0", "skipped": "1"}


def test_a_failure_has_its_violations_and_what_is_skipped_its_reason() -> None:
    _, failed, aborted = (case.find("failure") for case in list(suite().iter("testcase"))[:3])
    assert failed is not None
    assert aborted is not None
    assert "detection: expected at most 1 s, found 1.31 s" in (failed.text or "")
    assert (aborted.attrib["type"], aborted.attrib["message"][:4]) == ("aborted", "12 %")
    skipped = suite().find("testcase/skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == drill_records.skipped().reason


def test_times_are_seconds() -> None:
    times = [float(each.attrib["time"]) for each in suite().iter("testcase")]
    assert 20 <= times[0] < 25
    assert times[-1] == 0
    assert float(suite().attrib["time"]) == round(sum(times), 3)


def test_what_xml_cannot_have_is_replaced() -> None:
    run = replace(drill_records.skipped(), reason="it said \x1b[31m<no>\ud800 & ended")
    skipped = suite(drill_records.record(run)).find("testcase/skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "it said �[31m<no>� & ended"
