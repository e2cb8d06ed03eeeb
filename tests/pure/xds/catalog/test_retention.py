import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.election.keys.lock import ElectionLock
from sidecar.xds.catalog.catalog import Health, Instance, Leader
from sidecar.xds.catalog.retention import (
    CatalogView,
    Leadership,
    RetentionRules,
    RetentionState,
    SelfReport,
    is_regression,
    next_deadline,
    retain,
    retain_leader,
    wants_verification,
)

HOLD = 60.0
HOUR = 3600.0
RULES = RetentionRules(HOLD, HOUR, 0.5)
SERVES = SelfReport(alive=0.0)
GONE = SelfReport(gone=True)
A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001)
C = Instance("c", "10.0.0.3", 8001, 9001)
D = Instance("d", "10.0.0.4", 8001, 9001)
LED = Leadership(Leader("a", 7), 7)


def retained(instance: str, epoch: int) -> ElectionLock:
    return ElectionLock("session", instance, epoch)


@pytest.mark.parametrize(
    ("lock", "verified", "believed"),
    [
        (retained("b", 8), False, Leadership(Leader("b", 8), 8)),
        (retained("a", 7), False, LED),
        (ElectionLock(None, None, 9), False, LED),  # free: the last leader stays preferred
        (ElectionLock("session", None, 9), False, LED),  # held by a session that wrote no epoch
        (ElectionLock(), True, LED),  # the keys are gone
        (retained("b", 3), False, LED),  # an old answer, or a lost history
        (retained("b", 3), True, Leadership(Leader("b", 3), 3)),  # a lost history
    ],
)
def test_which_leader_counts(lock: ElectionLock, verified: bool, believed: Leadership) -> None:
    assert retain_leader(LED, lock, verified=verified) == believed


LOCKS = st.builds(
    ElectionLock,
    session=st.sampled_from([None, "s", "t"]),
    instance=st.sampled_from([None, "a", "b"]),
    epoch=st.integers(0, 9),
)


@given(st.lists(LOCKS))
def test_without_verification_the_epoch_never_goes_back(locks: list[ElectionLock]) -> None:
    belief, epochs = Leadership(), [0]
    for lock in locks:
        belief = retain_leader(belief, lock)
        epochs.append(belief.newest_epoch)
        assert belief.leader is None or belief.leader.epoch == belief.newest_epoch
    assert epochs == sorted(epochs)


@given(st.lists(LOCKS))
def test_a_verified_lock_always_counts(locks: list[ElectionLock]) -> None:
    belief = Leadership()
    for lock in locks:
        verified = is_regression(belief, lock)
        belief = retain_leader(belief, lock, verified=verified)
        if lock.instance is not None:
            assert belief.leader == Leader(lock.instance, lock.epoch)


def remember(*instances: Instance, now: float = 0.0) -> RetentionState:
    return look(RetentionState(since=now), CatalogView(instances), now)


def look(
    state: RetentionState, view: CatalogView, now: float, **reports: SelfReport
) -> RetentionState:
    return retain(state, view, reports, now, RULES)


def deadline(state: RetentionState, now: float, **reports: SelfReport) -> float | None:
    return next_deadline(state, reports, now, RULES)


def wants(state: RetentionState, view: CatalogView, now: float) -> bool:
    return wants_verification(state, view, now, RULES)


def test_an_instance_that_vanished_without_notice_is_retained_for_a_while() -> None:
    state = look(remember(A, B), CatalogView((A,)), 10.0)
    assert state.instances == (A, B)
    assert deadline(state, 10.0) == 70.0
    assert look(state, CatalogView((A,)), 69.9).instances == (A, B)
    assert look(state, CatalogView((A,)), 70.0).instances == (A,)


def test_an_instance_that_returns_starts_over() -> None:
    state = look(remember(A, B), CatalogView((A,)), 10.0)
    state = look(state, CatalogView((A, B)), 60.0)
    assert deadline(state, 60.0) is None
    assert look(state, CatalogView((A,)), 90.0).instances == (A, B)


def test_an_instance_that_drained_is_dropped_at_once() -> None:
    leaving = replace(B, draining=True)
    state = look(remember(A, B), CatalogView((A, leaving)), 1.0)
    assert state.instances == (A, leaving)
    assert look(state, CatalogView((A,)), 2.0).instances == (A,)


def test_an_instance_that_hands_over_is_retained() -> None:
    # Its agent was restarted while the successor loads its models: no other instance serves.
    loading = replace(A, health=Health.CRITICAL)
    leaving = replace(B, health=Health.CRITICAL, draining=True, hands_over=True)
    state = look(remember(loading, B), CatalogView((loading, leaving)), 1.0)
    assert look(state, CatalogView((loading,), verified=True), 2.0).instances == (loading, leaving)


def test_an_instance_that_vanished_while_critical_is_held_too() -> None:
    # Its agent was restarted: it registers again, and Envoy must keep its requests in flight.
    critical = replace(B, health=Health.CRITICAL)
    state = look(remember(A, critical), CatalogView((A,)), 1.0)
    assert state.instances == (A, critical)


def test_the_listed_state_counts_at_once() -> None:
    critical = replace(A, health=Health.CRITICAL)
    assert look(remember(A, B), CatalogView((critical, B)), 1.0).instances == (critical, B)


def test_a_renamed_instance_is_not_retained_next_to_its_new_name() -> None:
    renamed = replace(A, id="c")
    assert look(remember(A, B), CatalogView((B, renamed)), 1.0).instances == (B, renamed)


def test_an_empty_catalog_has_to_be_proven() -> None:
    state = look(remember(A, B), CatalogView(), 1.0)
    assert wants(state, CatalogView(), 1.0)
    assert not wants(state, CatalogView(verified=True), 1.0)
    unproven = look(state, CatalogView(), 1000.0)
    assert unproven.instances == (A, B)
    assert look(unproven, CatalogView(verified=True), 1001.0).instances == ()


def test_an_empty_list_ends_no_hold_that_began_before() -> None:
    state = look(remember(A, B), CatalogView((A,)), 1.0)
    state = look(state, CatalogView(), 2.0)  # a token was revoked: B may be back, unseen
    assert wants(state, CatalogView(), 61.0)
    assert look(state, CatalogView(), 61.0).instances == (A, B)
    assert look(state, CatalogView(verified=True), 61.0).instances == (A,)


def test_the_last_healthy_instance_is_not_dropped_without_proof() -> None:
    # A vanished while it was healthy, B is listed and cannot serve.
    critical = replace(B, health=Health.CRITICAL)
    state = look(remember(A, B), CatalogView((critical,)), 1.0)
    assert look(state, CatalogView((critical,)), 61.0).instances == (A, critical)
    assert wants(state, CatalogView((critical,)), 61.0)
    assert not wants(state, CatalogView((critical,), verified=True), 61.0)
    assert look(state, CatalogView((critical,), verified=True), 61.0).instances == (critical,)


def test_an_entry_without_a_verdict_is_not_absent() -> None:
    # Every verdict has lapsed, because the agent was suspended: there is nothing to prove.
    state = look(remember(A, B), CatalogView(complete=False), 1.0)
    assert not wants(state, CatalogView(complete=False), 1000.0)
    assert look(state, CatalogView(complete=False), 1000.0).instances == (A, B)


def test_a_new_control_plane_waits_for_instances_without_a_verdict() -> None:
    partial = CatalogView((A,), complete=False)
    state = look(RetentionState(since=0.0), partial, 0.0)
    assert not state.settled
    assert deadline(state, 0.0) == 60.0
    assert look(state, CatalogView((A, B)), 1.0).settled
    assert look(state, partial, 60.0).settled


def test_proof_does_not_shorten_the_hold() -> None:
    assert look(remember(A), CatalogView(verified=True), 10.0).instances == (A,)


def test_a_service_is_settled_by_its_first_usable_instance() -> None:
    critical = replace(A, health=Health.CRITICAL)
    state = look(RetentionState(since=0.0), CatalogView((critical,)), 0.0)
    assert not state.settled
    assert look(state, CatalogView((critical, B)), 1.0).settled
    assert look(state, CatalogView((critical,), verified=True), 60.0).settled


SILENT = replace(A, silent=True)
HANDS_OVER = replace(A, health=Health.CRITICAL, draining=True, hands_over=True)


@pytest.mark.parametrize("last", [SILENT, HANDS_OVER], ids=["silent", "hands over"])
def test_an_instance_of_last_resort_settles_it_too(last: Instance) -> None:
    """The Envoys of a new control plane know no other one."""
    state = look(RetentionState(0.0), CatalogView((last,)), 0.0)
    assert state.settled
    assert not look(RetentionState(0.0), CatalogView((last,), complete=False), 0.0).settled
    # It is not evidence that others are gone.
    assert not CatalogView((last,)).shows_usable
    assert not look(
        RetentionState(0.0), CatalogView((replace(SILENT, health=Health.CRITICAL),)), 0.0
    ).settled


def test_only_proof_settles_a_service_without_instances() -> None:
    state = look(RetentionState(since=0.0), CatalogView(), 0.0)
    assert deadline(state, 0.0) == 60.0
    state = look(state, CatalogView(), 1000.0)
    assert not state.settled
    assert wants(state, CatalogView(), 1000.0)
    assert look(state, CatalogView(verified=True), 1000.0).settled


INSTANCES = st.lists(
    st.builds(
        lambda number, health, draining: Instance(
            f"i{number}", "10.0.0.1", 8000 + number, 9000 + number, health, draining
        ),
        st.integers(1, 4),
        st.sampled_from(Health),
        st.booleans(),
    ),
    unique_by=lambda instance: instance.id,
).map(tuple)


VIEWS = st.builds(CatalogView, INSTANCES, st.booleans(), st.booleans(), st.booleans())


def test_a_missing_instance_that_reports_it_serves_is_kept_long_but_not_forever() -> None:
    state, now = remember(A, B), 10.0
    while now < 10.0 + HOUR:
        state = look(state, CatalogView((A,)), now, b=SelfReport(alive=now))
        assert state.instances == (A, B)
        now += 40.0
    state = look(state, CatalogView((A,)), 10.0 + HOUR, b=SelfReport(alive=now))
    assert state.instances == (A,)
    assert "did not register again" in state.dropped["b"]


def test_the_last_usable_instance_is_kept_as_long_as_it_reports_that_it_serves() -> None:
    critical = replace(B, health=Health.CRITICAL)
    proven = CatalogView((critical,), verified=True)
    state = look(remember(A, critical), proven, 10.0)
    for now in (10.0 + HOUR, 2 * HOUR):
        report = SelfReport(alive=now - 5.0)
        state = look(state, proven, now, a=report)
        assert state.instances == (A, critical)
        assert deadline(state, now, a=report) == now - 5.0 + HOLD
    # Once it is not the last one, or becomes silent, the limit applies.
    assert look(state, CatalogView((B,)), 2 * HOUR, a=SelfReport(alive=2 * HOUR)).instances == (B,)
    assert look(state, proven, 2 * HOUR, a=SelfReport(alive=2 * HOUR, gone=True)).instances == (
        critical,
    )
    assert look(state, proven, 2 * HOUR + HOLD, a=SelfReport(alive=2 * HOUR)).instances == (
        critical,
    )


def test_the_hold_begins_with_the_first_query() -> None:
    state = look(remember(A, B), CatalogView((A,)), 10.0)
    unasked, asked = SelfReport(asked=math.inf), SelfReport(asked=500.0)
    assert look(state, CatalogView((A,)), 2 * HOUR, b=unasked).instances == (A, B)
    assert deadline(state, HOUR, b=unasked) == 10.0 + HOUR
    assert look(state, CatalogView((A,)), 559.9, b=asked).instances == (A, B)
    assert deadline(state, 500.0, b=asked) == 560.0
    assert look(state, CatalogView((A,)), 560.0, b=asked).instances == (A,)


def test_an_instance_missing_since_before_the_start_is_queried_first() -> None:
    earlier = RetentionState(0.0, (A, B), {"b": -2 * HOUR}, settled=True)
    asked = SelfReport(asked=1.0)
    state = look(earlier, CatalogView((A,)), 60.9, b=asked)
    assert state.instances == (A, B)
    assert look(state, CatalogView((A,)), 61.0, b=asked).instances == (A,)
    assert look(state, CatalogView((A,)), 61.0, b=SelfReport(alive=60.0, asked=1.0)).instances == (
        A,
    )


def test_an_instance_that_becomes_silent_is_held_from_its_last_report_on() -> None:
    state = look(remember(A, B), CatalogView((A,)), 10.0)
    report = SelfReport(alive=100.0)
    state = look(state, CatalogView((A,)), 100.0, b=report)
    assert deadline(state, 100.0, b=report) == 160.0
    assert look(state, CatalogView((A,)), 159.9, b=report).instances == (A, B)
    assert look(state, CatalogView((A,)), 160.0, b=report).instances == (A,)


def test_a_missing_instance_that_reports_it_is_gone_is_dropped_at_once() -> None:
    state = look(remember(A, B), CatalogView((A,)), 10.0)
    state = look(state, CatalogView((A,)), 10.1, b=GONE)
    assert state.instances == (A,)
    assert "reports so itself" in state.dropped["b"]


def test_a_self_report_does_not_drop_an_instance_before_the_view_is_proven() -> None:
    state = look(remember(A, B), CatalogView(), 1.0, a=GONE, b=SERVES)
    assert state.instances == (replace(A, silent=True), B)
    state = look(state, CatalogView(verified=True), 2.0, a=GONE, b=SERVES)
    assert state.instances == (B,)


def test_a_sudden_loss_has_to_be_verified_even_if_one_is_left() -> None:
    state = look(remember(A, B, C), CatalogView((A,)), 1.0)
    assert wants(state, CatalogView((A,)), 1.0)
    assert look(state, CatalogView((A,)), 1000.0).instances == (A, B, C)
    assert look(state, CatalogView((A,)), 1000.0, b=GONE).instances == (
        A,
        replace(B, silent=True),
        C,
    )
    proven = CatalogView((A,), verified=True)
    assert not wants(state, proven, 1.0)
    assert look(state, proven, 60.9).instances == (A, B, C)
    assert look(state, proven, 61.0).instances == (A,)
    # Losing half of them is not a sudden loss.
    state = look(remember(A, B, C, D), CatalogView((A, B)), 1.0)
    assert not wants(state, CatalogView((A, B)), 1.0)
    assert look(state, CatalogView((A, B)), 61.0).instances == (A, B)


def test_an_unverified_loss_counts_after_an_hour_but_never_for_all() -> None:
    state = look(remember(A, B), CatalogView(), 1.0, a=GONE)
    state = look(state, CatalogView(), 1.0 + HOUR, a=GONE)
    assert state.instances == (B,)
    state = look(state, CatalogView(), 2 * HOUR, b=GONE)
    assert state.instances == (B,)


def test_a_retained_instance_that_does_not_answer_is_silent_while_others_are_usable() -> None:
    silent, quiet = SelfReport(asked=1.0, silent=True), replace(B, silent=True)
    state = look(remember(A, B, C), CatalogView((A, C)), 1.0, b=silent)
    assert state.instances == (A, quiet, C)
    assert look(state, CatalogView((A, C)), 2.0, b=SERVES).instances == (A, B, C)
    # No instance is listed: the catalog is at fault, not the instance.
    assert look(remember(A, B), CatalogView(), 1.0, a=silent, b=silent).instances == (A, B)
    # Of two missing ones, one answers.
    assert look(remember(A, B), CatalogView(), 1.0, a=SERVES, b=silent).instances == (A, quiet)


def test_an_instance_whose_sidecar_belongs_to_another_is_not_retained() -> None:
    moved = replace(B, id="c", port=8002)
    assert look(remember(A, B), CatalogView((A, moved)), 1.0).instances == (A, moved)


REPORTS = st.dictionaries(
    st.sampled_from(["i1", "i2", "i3", "i4"]),
    st.builds(SelfReport, st.none() | st.floats(0, 500), st.booleans()),
)


@given(st.lists(st.tuples(VIEWS, REPORTS, st.floats(0, 50) | st.just(HOUR))))
def test_instances_are_never_dropped_without_evidence(
    steps: list[tuple[CatalogView, dict[str, SelfReport], float]],
) -> None:
    now, state = 0.0, RetentionState(since=0.0)
    for view, reports, pause in steps:
        now += pause
        before, state = state, retain(state, view, reports, now, RULES)
        assert set(view.instances) <= set(state.instances)
        assert state.settled or not before.settled
        silent = {i.id for i in before.instances if not i.draining}
        for name in silent - {i.id for i in state.instances}:
            report, since = reports.get(name, SelfReport()), before.missing.get(name, now)
            assert (
                report.gone
                or now >= max(since, report.alive or since) + HOLD
                or now >= since + HOUR
            )
            if view.doubtful and not view.verified:
                assert report.gone
            if not (view.verified or view.shows_usable):
                assert report.gone
                assert now >= since + HOUR
        usable = any(i.usable for i in before.instances)
        if usable and not view.verified and not view.instances:
            assert state.instances
        assert all(since <= now for since in state.missing.values())
        at = next_deadline(state, reports, now, RULES)
        assert at is None or at > now


@given(st.lists(st.tuples(VIEWS, REPORTS), min_size=1))
def test_an_instance_that_consul_disproves_is_not_kept_forever(
    steps: list[tuple[CatalogView, dict[str, SelfReport]]],
) -> None:
    now, state = 0.0, RetentionState(since=0.0)
    for view, reports in steps:
        now += 10.0
        state = retain(state, view, reports, now, RULES)
    last = replace(steps[-1][0], verified=True)
    for _ in range(2):
        now += HOUR
        speaking = {name: SelfReport(alive=now) for name in state.missing}
        state = retain(state, last, speaking, now, RULES)
    if state.missing:  # the last ones, which report that they serve
        assert not last.shows_usable
        state = retain(state, last, {}, now, RULES)
    assert state.instances == tuple(sorted(last.instances, key=lambda i: i.id))
