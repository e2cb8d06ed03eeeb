"""The probing loops: the server, and what all models have in common."""

import asyncio
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from sidecar.events import CanarySent, Probed
from sidecar.recovery.decision import FIXED_BY_RESTART
from sidecar.runtime.errors import (
    DeadlineExceeded,
    Exiting,
    NotAdmitted,
    Refused,
    Rejected,
    Unavailable,
)
from sidecar.triton.api import Statistics
from sidecar.verdict.evidence import HUNG, Layer, Reason
from sidecar.verdict.verdict_line import State
from tests.support.prober_bench import SETTINGS, Bench, canary, model, probing, says
from tests.support.virtual_clock import settle


async def test_a_healthy_triton_passes_soon() -> None:
    async with probing() as bench:
        await bench.pass_(0.5)
        assert bench.verdicts == ["passing OK"]
        assert bench.prober.identity.value.triton_version == "2.51.0"
        assert [each.name for each in bench.prober.identity.value.models] == ["chat"]


async def test_two_wrong_answers_are_critical_and_a_retry_does_not_hide_them() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.reply = says("nonsense")
        await bench.pass_(1.5)
        assert bench.verdict.summary == (
            "CRITICAL CANARY_WRONG_ANSWER: chat: text: equals: expected 'right', got 'nonsense'"
        )
        bench.chat.reply = says("right")
        await bench.pass_(3)
        assert bench.verdict.state is State.PASSING


async def test_a_killed_server_is_noticed_at_once_and_names_the_port() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.triton.error = Refused("Connection refused")
        bench.triton.lose_connections()
        await bench.pass_(0.3)
        assert bench.verdict.summary == "CRITICAL PORT_UNREACHABLE: port: Connection refused"
        assert bench.verdict.models == frozenset()
        bench.triton.error = None
        await bench.pass_(3)
        assert bench.verdicts[1:] == ["critical PORT_UNREACHABLE", "passing OK"]


async def test_a_canary_that_fails_with_the_server_is_not_a_fault_of_the_model() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.triton.error = Unavailable("Connection reset")
        await bench.pass_(3)
        bench.triton.error = None
        await bench.pass_(3)
        assert not any("CANARY" in said for said in bench.verdicts)


async def test_an_unreachable_server_is_sent_no_canaries() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.triton.error = Refused("Connection refused")
        bench.triton.lose_connections()
        await bench.pass_(1)
        before = bench.sent()
        await bench.pass_(20)
        assert bench.sent() == before


async def test_a_frozen_server_does_not_answer() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.triton.frozen = True
        await bench.pass_(4)
        assert bench.verdict.summary == "CRITICAL SERVER_UNANSWERED: live: no answer in time"


async def test_a_server_that_reports_it_is_exiting_is_not_hung() -> None:
    """A hung server is killed soon, and the streams that it still serves with it."""
    async with probing() as bench:
        await bench.pass_(2)
        bench.triton.refusal = Exiting("UNAVAILABLE: Server exiting")
        await bench.pass_(4)
        assert bench.verdict.summary == (
            "CRITICAL SERVER_NOT_LIVE: live: UNAVAILABLE: Server exiting"
        )
        assert bench.verdict.reason not in HUNG


async def test_a_server_that_does_not_admit_the_sidecar_is_not_restarted() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.triton.refusal = NotAdmitted("UNAVAILABLE: This protocol is restricted")
        await bench.pass_(4)
        expected = "CRITICAL CONFIG: live: UNAVAILABLE: This protocol is restricted"
        assert bench.verdict.summary == expected
        assert bench.verdict.reason not in FIXED_BY_RESTART
        bench.triton.refusal = None
        await bench.pass_(20)
        assert bench.verdict.state is State.PASSING


async def test_a_model_that_the_sidecar_may_not_query_is_not_unhealthy() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.error = NotAdmitted("PERMISSION_DENIED: by a proxy")
        await bench.pass_(4)
        assert bench.verdict.summary == "CRITICAL CONFIG: chat: PERMISSION_DENIED: by a proxy"


async def test_evidence_contains_the_last_findings() -> None:
    async with probing() as bench:
        await bench.pass_(5)
        bench.triton.statistics_error = Rejected("UNIMPLEMENTED: no")
        await bench.pass_(3)
        assert Reason.STATISTICS_UNAVAILABLE in {each.reason for each in bench.evidence}


async def test_a_server_that_refuses_everything_is_not_busy() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.error = Unavailable("UNAVAILABLE: stub is dead")
        bench.chat.counts_errors = False
        await bench.pass_(10, lambda: bench.chat.count(failures=1))
        assert bench.verdicts[1:] == ["critical CANARY_FAILED"]


async def test_a_sidecar_suspended_during_a_canary_reports_no_fault() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.delay = 4.0
        await bench.pass_(1.5)
        bench.clock._now += 120.0
        await bench.pass_(3)
        assert not any(said.startswith("critical") for said in bench.verdicts)


async def test_a_port_that_was_closed_for_a_moment_invalidates_every_proof() -> None:
    settings = SETTINGS.model_copy(update={"fall": 5})
    async with probing(settings=settings) as bench:
        await bench.pass_(2)
        bench.triton.error = Refused("Connection refused")
        bench.triton.lose_connections()
        await bench.pass_(0.2)
        bench.triton.error = None
        await bench.pass_(3)
        assert bench.prober.assessment.restarts.value == 1
        assert bench.verdicts[1:] == ["critical NOT_PROVEN_YET", "passing OK"]


async def test_a_version_that_cannot_be_read_at_once_is_read_later() -> None:
    async with probing() as bench:
        bench.triton.version_error = Unavailable("UNAVAILABLE: no")
        await bench.pass_(3)
        bench.triton.version_error = None
        await bench.pass_(3)
        assert bench.prober.identity.value.triton_version == "2.51.0"


async def test_new_settings_wake_a_sleeping_loop() -> None:
    slow = SETTINGS.model_copy(update={"interval": 3600.0})
    async with probing(settings=slow) as bench:
        await bench.pass_(3)
        bench.chat.reply = says("nonsense")
        await bench.pass_(3)
        assert bench.verdicts == ["passing OK"]
        bench.prober.configure([canary()], SETTINGS.rules)
        await bench.pass_(3)
        assert bench.verdicts[1:] == ["critical CANARY_WRONG_ANSWER"]


async def test_unhealthy_models_share_the_probes_of_the_server() -> None:
    models = [model(f"m{number}") for number in range(20)]
    async with probing(*models) as bench:
        await bench.pass_(2)
        for each in models:
            each.error = Unavailable("UNAVAILABLE: no")
        bench.events.clear()
        await bench.pass_(10)
        ports = [
            finding
            for event in bench.events
            if isinstance(event, Probed)
            for finding in event.findings
            if finding.layer is Layer.PORT
        ]
        assert len(ports) <= 101


async def test_a_server_that_loads_another_model_is_only_a_warning() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.triton.ready = False
        await bench.pass_(5)
        bench.triton.ready = True
        await bench.pass_(5)
        assert bench.verdicts == ["passing OK", "warning SERVER_NOT_READY", "passing OK"]


async def test_a_connection_that_this_machine_cannot_open_invalidates_no_proof() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.triton.error = Unavailable("Too many open files")
        await bench.pass_(0.1)
        bench.triton.error = None
        await bench.pass_(3)
        assert bench.verdicts == ["passing OK"]
        assert bench.prober.assessment.restarts.value == 0


async def test_reloads_do_not_send_extra_canaries() -> None:
    models = [model(f"m{number}") for number in range(20)]
    settings = SETTINGS.model_copy(update={"canary_rate": 2.0})
    given = [canary(each.description.name) for each in models]
    async with probing(*models, settings=settings) as bench:
        await bench.pass_(2)
        bench.events.clear()
        for _ in range(10):
            changed = settings.model_copy(update={"grace": 60.0 + len(bench.events)})
            bench.prober.configure(given, changed.rules)
            await bench.pass_(0.5)
        sent = sum(isinstance(event, CanarySent) for event in bench.events)
        assert sent <= 12


async def test_all_canaries_together_stay_within_their_rate() -> None:
    models = [model(f"m{number}") for number in range(20)]
    for each in models:
        each.error = Rejected("INTERNAL: no")
    settings = SETTINGS.model_copy(update={"canary_rate": 10.0})
    async with probing(*models, settings=settings) as bench:
        await bench.pass_(2)
        before = sum(len(each.asked) for each in models)
        await bench.pass_(10)
        sent = sum(len(each.asked) for each in models) - before
        assert 90 <= sent <= 102
        assert all(each.asked for each in models)


async def test_short_freezes_do_not_change_the_verdict() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        for _ in range(10):
            bench.triton.frozen = True
            await bench.pass_(0.8)
            bench.triton.frozen = False
            await bench.pass_(1.7)
        assert bench.verdicts == ["passing OK"]


async def test_a_suspended_sidecar_reports_no_fault() -> None:
    async with probing() as bench:
        await bench.pass_(2.05)
        bench.chat.delay = 0.5
        await bench.pass_(1.2)
        bench.clock._now += 120.0  # all timers are due at once
        await bench.pass_(10)
        assert not any(said.startswith("critical") for said in bench.verdicts)


async def test_maintenance_and_draining_override_every_finding() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.prober.assessment.maintain("new disks")
        await bench.pass_(3)
        assert bench.verdict.summary == "MAINTENANCE MAINTENANCE: new disks"
        bench.prober.assessment.maintain(None)
        await settle()
        assert bench.verdict.state is State.PASSING
        bench.prober.assessment.drain("shutting down")
        bench.prober.assessment.maintain("too late")
        await bench.pass_(3)
        assert bench.verdict.summary == "DRAINING DRAINING: shutting down"


@pytest.mark.parametrize("seconds", [0.3, 1.0, 5.0])
async def test_a_reloaded_model_is_described_again(seconds: float) -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.triton.error = Refused("Connection refused")
        bench.triton.lose_connections()
        await bench.pass_(seconds)
        bench.chat.description = replace(bench.chat.description, versions=("2",))
        bench.triton.error = None
        await bench.pass_(5)
        assert bench.prober.identity.value.models[0].versions == ("2",)


async def test_loads_are_noticed_and_nothing_else_counts_as_one() -> None:
    async with probing(model("chat"), model("embed")) as bench:
        await bench.pass_(5)
        first = bench.prober.loads.value
        assert first.by_model == {"chat": 0, "embed": 0}
        bench.triton.frozen = True
        await bench.pass_(10)
        bench.triton.frozen = False
        bench.triton.statistics_error = DeadlineExceeded("no answer in time")
        await bench.pass_(5)
        bench.triton.statistics_error = None
        await bench.pass_(10)
        assert bench.prober.loads.value == first
        zero = dict.fromkeys(("successes", "executions", "inferences"), 0)
        bench.chat.statistics = replace(bench.chat.statistics, **zero)  # type: ignore[arg-type]
        await bench.pass_(2)
        assert bench.prober.loads.value.by_model == {"chat": 1, "embed": 0}
        bench.triton.error = Refused("Connection refused")
        await bench.pass_(3)
        bench.triton.error = None
        await bench.pass_(3)
        assert bench.prober.loads.value.restarts == 1


async def test_the_counters_are_the_current_ones_while_the_load_is_the_same() -> None:
    async with probing() as bench:
        await bench.pass_(5)
        load, before = bench.prober.loads.version, bench.prober.counted["chat"]
        bench.chat.count(successes=7, executions=7)
        await bench.pass_(5)
        assert bench.prober.counted["chat"].work >= before.work + 14
        assert bench.prober.loads.version == load


class Name(str):
    """A model's name that counts how often it was compared."""

    compared: ClassVar[int] = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)


async def test_reading_statistics_is_not_quadratic_in_models() -> None:
    count, looks = 30, 0
    async with probing(*(model(f"chat-{number}") for number in range(count))) as bench:
        statistics = bench.triton.statistics

        async def counted_statistics(timeout: float) -> tuple[Statistics, ...]:
            nonlocal looks
            looks += 1
            return tuple(
                replace(each, model=Name(each.model)) for each in await statistics(timeout)
            )

        bench.triton.statistics = counted_statistics  # type: ignore[method-assign]
        await bench.pass_(5)
        assert bench.prober.counted.keys() == bench.triton.models.keys()
        assert looks > 0
        assert Name.compared < 10 * count * looks


@pytest.mark.parametrize(
    ("call", "silent"),
    [
        ("connect", {Layer.PORT}),
        ("server_live", {Layer.LIVE}),
        ("server_ready", {Layer.READY}),
        ("model_ready", {Layer.MODEL}),
        ("infer", set()),  # which Triton's counters show
        ("statistics", {Layer.PROGRESS, Layer.TRAFFIC}),
    ],
)
async def test_a_stuck_probe_becomes_stale(call: str, silent: set[Layer]) -> None:
    async with probing() as bench:
        await bench.pass_(5)
        bench.stick(call)
        await bench.pass_(120)
        stale = {found.layer for found in bench.evidence if found.reason is Reason.EVIDENCE_STALE}
        assert silent <= stale
        # Only a layer that has to be proven stops serving; a stuck canary counts as hung.
        assert bench.verdict.serving == (call == "statistics")
        reported = {
            found.layer
            for event in bench.events
            if isinstance(event, Probed)
            for found in event.findings
            if found.reason is Reason.EVIDENCE_STALE
        }
        assert silent <= reported
        bench.release()
        await bench.pass_(30)
        assert bench.verdict.state is State.PASSING


async def test_a_late_canary_is_not_watched_forever_without_readable_counters() -> None:
    async with probing() as bench:
        await bench.pass_(5)
        bench.stick("statistics")
        await bench.pass_(2)
        bench.chat.hung = True
        await bench.pass_(200)
        assert bench.verdict.state is State.CRITICAL


@pytest.mark.parametrize("interval", [1.0, 30.0])
async def test_a_sidecar_that_is_suspended_repeatedly_finds_nothing_stale(
    interval: float,
) -> None:
    """Also with layers that have a separate interval."""
    own = {"server_interval": 1.0, "statistics_interval": 1.0, "interval": interval}
    async with probing(settings=SETTINGS.model_copy(update=own)) as bench:
        await bench.pass_(2 * interval + 3)
        assert bench.verdicts == ["passing OK"]
        await bench.pass_(5)
        for _ in range(30):
            bench.clock._now += 3600.0
            await bench.pass_(3)
        assert bench.verdicts == ["passing OK"]


async def test_a_reload_that_shortens_an_interval_makes_nothing_stale() -> None:
    slow = SETTINGS.model_copy(update={"server_interval": 60.0, "canary_interval": 300.0})
    async with probing(settings=slow) as bench:
        await bench.pass_(115)
        assert bench.verdicts == ["passing OK"]
        bench.prober.configure([canary()], SETTINGS.rules)
        await bench.pass_(60)
        assert bench.verdicts == ["passing OK"]


def identified(bench: Bench) -> int:
    """How many models are known to be served."""
    return len(bench.prober.identity.value.models)


async def test_a_forgotten_model_that_is_still_loaded_is_found_again() -> None:
    async with probing() as bench:
        await bench.pass_(1)
        bench.prober.forget_identity()
        assert identified(bench) == 0
        await bench.pass_(1)
        assert identified(bench) == 1


async def test_a_forgotten_model_that_is_not_loaded_stays_forgotten() -> None:
    async with probing() as bench:
        await bench.pass_(1)
        bench.chat.loaded = bench.chat.ready = False
        bench.prober.forget_identity()
        for _ in range(30):
            await bench.pass_(0.1)
            assert identified(bench) == 0


@pytest.mark.parametrize("call", ["describe", "server_version"])
async def test_an_answer_from_before_an_unload_does_not_restore_the_models(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async with probing() as bench:
        asked, go, answer = asyncio.Event(), asyncio.Event(), getattr(bench.triton, call)

        async def late(*of: Any) -> Any:
            found = await answer(*of)
            asked.set()
            await go.wait()
            return found

        monkeypatch.setattr(bench.triton, call, late)
        await bench.pass_(1)
        assert asked.is_set()
        bench.chat.loaded = bench.chat.ready = False
        bench.prober.forget_identity()
        monkeypatch.undo()
        go.set()
        for _ in range(30):
            await bench.pass_(0.1)
            assert identified(bench) == 0
