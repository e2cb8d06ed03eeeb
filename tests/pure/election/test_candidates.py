"""Which instance may become primary, in which order, and how it is read from the catalog."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.consul.api import Check, ServiceEntry
from sidecar.election import candidates
from sidecar.election.candidates import Candidate, Field, objections, ranking, reference
from sidecar.health.report import report
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.rewording import reword

A = Candidate("a")
COLD = Candidate("a", "cold", cold=True)
ONE = replace(A, model_set="one")


@pytest.mark.parametrize(
    ("candidate", "wanted", "against"),
    [
        (A, "", ()),
        (ONE, "one", ()),
        (COLD, "", ()),
        (COLD, "one", ()),  # its model set is compared once it is loaded
        (replace(COLD, model_set="one"), "two", ("it serves the model set one, not two",)),
        (replace(COLD, cold=False), "", ("its verdict is cold",)),
        (ONE, "two", ("it serves the model set one, not two",)),
        (A, "one", ("its model set is not known yet",)),
        (replace(A, state="warning"), "", ("its verdict is warning",)),
        (replace(A, state="critical", detail="ill"), "", ("its verdict is critical: ill",)),
        (replace(A, maintenance=True), "", ("it is in maintenance",)),
        (replace(A, nofailover=True), "", ("it is tagged nofailover",)),
        (replace(A, unfit="no room"), "", ("no room",)),
        (
            replace(ONE, nofailover=True, unfit="no room"),
            "two",
            ("it is tagged nofailover", "no room", "it serves the model set one, not two"),
        ),
    ],
)
def test_the_objections_to_a_candidate(
    candidate: Candidate, wanted: str, against: tuple[str, ...]
) -> None:
    assert objections(candidate, wanted) == against


def test_the_best_candidate_comes_first() -> None:
    field = [
        replace(A, id="c"),
        replace(A, id="b"),
        replace(COLD, id="a0", priority=900),
        replace(A, id="z", priority=200),
        replace(A, id="y", state="warning", priority=900),
    ]
    assert [each.id for each in ranking(field, "")] == ["z", "b", "c", "a0"]


NOW = 1_700_000_000.0
SETTLING = replace(A, id="s", priority=200, settled_at=NOW + 3)


def test_a_settled_instance_is_preferred_but_not_a_cold_one_to_a_hot_one() -> None:
    field = [
        replace(SETTLING, id="t", priority=100),
        SETTLING,
        replace(A, id="u", state="warning"),
        replace(A, id="m", priority=50),
        replace(A, id="n", settled_at=NOW),
        replace(COLD, id="c", priority=900),
    ]
    chosen = candidates.preference(field, "", NOW)
    assert [each.id for each in chosen] == ["n", "m", "s", "t", "c"]
    # Once they have settled, the usual order applies, whether their meta is updated or not.
    assert candidates.preference(field, "", NOW + 3) == ranking(field, "")


@pytest.mark.parametrize(
    ("settled_at", "seconds"),
    [
        (f"{NOW + 2.5:.1f}", 2.5),
        (f"{NOW:.0f}", 0.0),
        # An instance whose sidecar does not know of settling counts as settled.
        *[(text, 0.0) for text in ("", "soon", "-1", "nan", "1e99", "9" * 400)],
    ],
)
def test_how_long_a_candidate_still_settles(settled_at: str, seconds: float) -> None:
    assert read(NODE_UP, HEALTHY, ALIVE, settled_at=settled_at).settling(NOW) == seconds


@given(st.permutations([replace(A, id=name, priority=ord(name) % 3) for name in "abcdef"]))
def test_every_instance_computes_the_same_ranking(field: list[Candidate]) -> None:
    assert ranking(field, "") == ranking(sorted(field, key=lambda each: each.id), "")


@pytest.mark.parametrize(
    ("declared", "last", "sets", "expected"),
    [
        ("one", "two", ["two"], "one"),
        ("", "two", ["one", "two"], "two"),
        ("", "two", ["one"], ""),  # all have been replaced: one of them has to be primary
        ("", "", ["one"], ""),
    ],
)
def test_which_model_set_a_primary_has_to_serve(
    declared: str, last: str, sets: list[str], expected: str
) -> None:
    assert reference(declared, last, [replace(A, model_set=each) for each in sets]) == expected


def test_the_last_holder_takes_the_role_again_only_with_the_same_model_set_and_health() -> None:
    assert candidates.resumes(ONE, "one")
    assert candidates.resumes(ONE, "")
    assert candidates.resumes(replace(ONE, state="warning"), "one")
    for changed in (
        replace(ONE, state="critical"),
        replace(ONE, maintenance=True),
        replace(ONE, nofailover=True),
        replace(ONE, unfit="no room"),
    ):
        assert not candidates.resumes(changed, "one")
    assert not candidates.resumes(ONE, "two")


def check(name: str, status: str = "passing", output: str = "") -> Check:
    return Check(name, name, status, output, "a")


def entry(*checks: Check, id: str = "a", **meta: str) -> ServiceEntry:
    tags = tuple(meta.pop("tags", "").split())
    return ServiceEntry("n", id, "t", "127.0.0.1", 1, tags, meta, 100, 50, checks)


NODE_UP, NODE_DOWN = check("serfHealth"), check("serfHealth", "critical", "Agent not live")
HEALTHY = check("a:verdict", "passing", "PASSING OK")
ALIVE = check("a:sidecar", "passing", "gRPC check 127.0.0.1:2/live: success")


def read(*checks: Check, **meta: str) -> Candidate:
    (found,) = candidates.read([entry(*checks, **meta)])
    return found


def test_a_candidate_is_read_from_the_catalog() -> None:
    known = read(
        NODE_UP, HEALTHY, ALIVE, priority="7", model_set="one", tags="x nofailover", unfit="no room"
    )
    assert known == Candidate(
        "a", priority=7, model_set="one", nofailover=True, unfit="no room", silent=True
    )
    assert known.serving


@pytest.mark.parametrize("priority", ["", "x", "-1", "\u0663", "1.5"])
def test_an_invalid_priority_is_the_default(priority: str) -> None:
    assert read(priority=priority).priority == 100


@pytest.mark.parametrize(
    ("checks", "silent", "detail"),
    [
        # A restarted agent starts its checks as critical, with an earlier output.
        ((replace(HEALTHY, status="critical"), replace(ALIVE, status="critical")), True, "PASSING"),
        ((check("a:verdict", "critical"), check("a:sidecar", "critical")), True, ""),
        ((check("a:verdict", "critical", "TTL expired (last output: PASSING)"),), True, "TTL"),
        ((NODE_DOWN, HEALTHY, ALIVE), False, "Agent not live"),
        (
            (check("a:verdict", "critical", "CRITICAL canary\nmore"), ALIVE),
            False,
            "CRITICAL canary",
        ),
        (
            (replace(HEALTHY, status="critical"), check("a:sidecar", "critical", "refused")),
            False,
            "refused",
        ),
    ],
)
def test_which_critical_checks_are_about_the_instance(
    checks: tuple[Check, ...], silent: bool, detail: str
) -> None:
    known = read(*checks)
    assert (known.state, known.silent, known.serving) == ("critical", silent, False)
    assert known.detail.startswith(detail)
    assert "\n" not in known.detail


def test_maintenance_is_read_from_its_check() -> None:
    known = read(HEALTHY, check("_service_maintenance:a", "critical"))
    assert (known.maintenance, known.silent, known.serving) == (True, False, False)
    assert len(objections(known, "")) == 2


NOT_LOADED = "COLD COLD_STANDBY: its models are not loaded"


@pytest.mark.parametrize(
    ("verdict", "sidecar", "meta", "state"),
    [
        (NOT_LOADED, "passing", {"standby": "cold"}, "cold"),
        ("CRITICAL PORT_UNREACHABLE: x", "passing", {"standby": "cold"}, "critical"),
        (NOT_LOADED, "critical", {"standby": "cold"}, "critical"),
        (NOT_LOADED, "passing", {}, "critical"),
        (f"TTL expired (last output: {NOT_LOADED})", "passing", {"standby": "cold"}, "critical"),
        ("COLD feet: it is not a verdict", "passing", {"standby": "cold"}, "critical"),
    ],
)
def test_a_cold_standby_needs_a_healthy_sidecar(
    verdict: str, sidecar: str, meta: dict[str, str], state: str
) -> None:
    known = read(check("a:verdict", "critical", verdict), check("a:sidecar", sidecar), **meta)
    assert known.state == state


@pytest.mark.parametrize(
    ("checks", "starting"),
    [
        ((check("a:verdict", "critical", "STARTING NOT_PROVEN_YET: server: port"), ALIVE), True),
        ((check("a:verdict", "critical", "STARTING A_NEWER_CODE"), ALIVE), True),
        ((check("a:verdict", "critical", "CRITICAL GPU_LOST: STARTING OK"), ALIVE), False),
        ((check("a:verdict", "critical", "TTL expired (last output: STARTING OK)"),), False),
        # The output of an operator's own check may say anything.
        ((check("a", "critical", "STARTING OK"), HEALTHY, ALIVE), False),
        ((HEALTHY, ALIVE), False),
    ],
)
def test_an_instance_that_has_just_started_is_recognized_by_a_code(
    checks: tuple[Check, ...], starting: bool
) -> None:
    assert read(*checks).starting == starting


def test_codes_are_read_whatever_the_text_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    reword(monkeypatch)
    not_loaded = Verdict(State.COLD, Reason.COLD_STANDBY, "its models are not loaded")
    begins = Verdict(State.STARTING, Reason.PORT_UNREACHABLE, "port: Connection refused")
    cold, starting = (
        read(check("a:verdict", "critical", report(verdict, ())), ALIVE, standby="cold")
        for verdict in (not_loaded, begins)
    )
    assert (cold.state, cold.starting) == ("cold", False)
    assert (starting.state, starting.starting) == ("critical", True)
    assert "Connection refused" not in starting.detail


def test_of_a_ghost_and_the_real_entry_the_healthier_one_counts() -> None:
    ghost, real = entry(NODE_DOWN), entry(NODE_UP, HEALTHY, rack="7")
    for entries in ([ghost, real], [real, ghost]):
        assert [each.state for each in candidates.read(entries)] == ["passing"]


def test_candidates_are_sorted_and_the_instance_itself_is_replaced_by_its_own_view() -> None:
    found = candidates.read([entry(id="c"), entry(id="a"), entry(id="b")])
    assert [each.id for each in found] == ["a", "b", "c"]
    field = Field(found, 1.0).with_own(replace(A, id="b", unfit="no room"))
    assert [each.id for each in field.candidates] == ["b", "a", "c"]
    assert field.candidates[0].unfit == "no room"
    assert field.find("c") is not None
    assert field.find("d") is None
