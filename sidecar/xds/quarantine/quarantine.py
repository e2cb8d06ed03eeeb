"""Attempts under supervision: requests that went down with two instances are tried alone.

Envoy asks before it sends such a request again (`quarantine.lua`). It is then tried on one of the
two instances that went down with it, as soon as that is back, or on one that came since: whatever
it does, none goes down that served on. Who answers it proves its innocence.
"""

import asyncio
import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import grpc
import structlog

from sidecar.runtime.latest import Latest, first_of
from sidecar.xds.catalog.catalog import Catalog, Instance
from sidecar.xds.config.methods import STREAM_PATH
from sidecar.xds.metrics import ControlPlaneMetrics
from sidecar.xds.publication import Publication
from sidecar.xds.quarantine.suspects import BOUND, Endpoint, Suspect, Suspects, entries, places
from sidecar.xds.quarantine.trials import (
    LONGEST,
    Answer,
    HeldRequest,
    OversizedError,
    TrialOutcome,
    Trials,
)

SERVICE = "sidecar.v1.QuarantineService"
# Seconds before an instance that is not back, or gave no clear answer, is looked for again.
_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_FORGET = 1.0  # seconds between looks at whose time is over
# Seconds for which the sidecar beside an instance has to be silent before its machine is to blame.
_SILENT = 5.0
_CONNECT = 1.0  # seconds
# Bytes of requests that are held at once.
_ROOM = 1 << 28
# Not the client's own, or about the way to this server.
_HOP = ("grpc-", "x-envoy-", "x-quarantine-", "x-triton-sidecar-", "x-forwarded-", "x-request-id")
_HOPS = {"te", "content-type", "user-agent"}


class Quarantine:
    """Finds out what suspects are; their fingerprints go to all Envoys."""

    def __init__(
        self,
        catalog: Latest[Catalog | None],
        publication: Publication,
        metrics: ControlPlaneMetrics,
    ) -> None:
        self._catalog = catalog
        self._published = publication.suspects
        self._clock = publication.clock
        self._suspects = Suspects(publication.edge.quarantine)
        self._lifetime = publication.edge.quarantine
        self._metrics = metrics
        self._log = structlog.get_logger()
        self._trials = Trials()
        self._held = 0
        # Those that are being tried; a trial goes on even if its sender has timed out.
        self._cases: dict[str, asyncio.Task[OversizedError | None]] = {}

    def handler(self) -> grpc.GenericRpcHandler:  # type: ignore[type-arg]
        """For the server: requests are as clients sent them, the outcome is in the metadata."""
        method = grpc.unary_unary_rpc_method_handler(self._serve)
        return grpc.method_handlers_generic_handler(SERVICE, {"Try": method})

    async def run(self) -> None:
        """Let go of those whose time is over, for ever; ends every trial when it is cancelled."""
        try:
            while True:
                await self._clock.sleep(_FORGET)
                self._suspects.forget(self._clock.now())
                self._publish()
        finally:
            for case in self._cases.values():
                case.cancel()

    async def judge(self, question: HeldRequest) -> tuple[str, str, int]:
        """Whether the request may go on: `go`, `refused`, or `told` what it was answered.

        With the reason in words, and the status of gRPC with which what it is told ends.

        Raises:
            OverflowError: too much is held already.
            LookupError: nothing is known of the service yet.
        """
        name, now = question.fingerprint, self._clock.now()
        found = self._suspects.accuse(name, question.endpoints, self._catalog.value, now)
        self._publish()
        while found is not None and not found.guilty:
            if (told := await self._outcome(question)) is not None:
                return "told", told.text, told.status
            found = self._suspects.find(name)
        return ("go", "", 0) if found is None else ("refused", found.refusal, 0)

    async def _outcome(self, question: HeldRequest) -> OversizedError | None:
        """Wait until it is known, or the time of the suspect is over; an error to be passed on."""
        name = question.fingerprint
        if (case := self._cases.get(name)) is not None:
            with self._holding(len(question.message)):  # one more of the same
                await asyncio.wait([case])
        else:
            case = asyncio.create_task(self._investigate(question), name=name)
            self._cases[name] = case
            case.add_done_callback(lambda _: self._cases.pop(name))
            await asyncio.wait([case])
        return case.result()

    async def _investigate(self, question: HeldRequest) -> OversizedError | None:
        """Try a suspect until it is known what it is, or its time is over."""
        pause, exclusive = _PAUSE, False
        silent: dict[Endpoint, float] = {}  # since when (monotonic seconds) a sidecar is
        with self._holding(len(question.message)):
            while suspect := self._open(question):
                seen = self._catalog.version
                outcome = await self._tried(question, suspect, exclusive=exclusive)
                if isinstance(outcome, OversizedError):
                    return outcome
                if outcome is TrialOutcome.NOTHING:
                    await self._look_at_machines(question, suspect, silent)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                elif outcome is TrialOutcome.DOWN:
                    pause, exclusive = _PAUSE, True
                    silent.clear()
                if self._open(question):
                    await first_of(self._clock, pause, self._catalog.changed(seen))
        return None

    async def _tried(self, question: HeldRequest, suspect: Suspect, *, exclusive: bool) -> Answer:
        """What became of a trial, if it can be tried anywhere."""
        deaths, busy = suspect.deaths, self._trials.busy
        where = min(
            places(suspect, self._catalog.value),
            key=lambda way: (deaths.get(way[0].endpoint, 0), busy(way[0].endpoint)),
            default=None,
        )
        if where is None:
            return TrialOutcome.NOTHING
        outcome, alone = await self._trials.run(
            where,
            question,
            wanted=lambda: self._open(question) is not None,
            exclusive=exclusive,
        )
        self._conclude(question, where[0], outcome, alone)
        return outcome

    def _open(self, question: HeldRequest) -> Suspect | None:
        """The suspect of whom nothing is proven."""
        found = self._suspects.find(question.fingerprint)
        return None if found is None or found.guilty else found

    def _conclude(
        self, question: HeldRequest, instance: Instance, answer: Answer, alone: bool
    ) -> None:
        name = question.fingerprint
        outcome = TrialOutcome.ANSWERED if isinstance(answer, OversizedError) else answer
        self._metrics.trials.labels(outcome.value).inc()
        if outcome is TrialOutcome.ANSWERED:
            self._suspects.acquit(name)
        elif outcome is TrialOutcome.DOWN and alone:
            found = self._suspects.fell(name, instance.endpoint, self._clock.now())
            if found is not None and found.guilty:
                self._suspects.refuse(name, self._refusal(found))
                self._log.warning(
                    "request_quarantined",
                    fingerprint=name,
                    bytes=len(question.message),
                    instance=instance.id,
                    seconds=self._lifetime,
                )
        self._publish()

    async def _look_at_machines(
        self, question: HeldRequest, suspect: Suspect, silent: dict[Endpoint, float]
    ) -> None:
        """Let it go, once, if the machine of an instance is gone, or its whole network.

        A request takes down a Triton, and hardly ever the sidecar beside it.
        """
        if suspect.pardoned:
            return
        for instance in entries(suspect, self._catalog.value):
            if instance.draining or await _listens(instance):
                silent.pop(instance.endpoint, None)
                continue
            now = self._clock.now()
            if now - silent.setdefault(instance.endpoint, now) >= _SILENT:
                self._log.info(
                    "request_pardoned",
                    fingerprint=question.fingerprint,
                    instance=instance.id,
                )
                self._suspects.pardon(question.fingerprint, now)
                self._publish()
                return

    async def _serve(self, message: bytes, context: Any) -> bytes:
        word, why, status = "unknown", "", 0
        with suppress(TimeoutError, OverflowError, LookupError):
            question = _question(dict(context.invocation_metadata()), message)
            async with asyncio.timeout(LONGEST):
                word, why, status = await self.judge(question)
        said = {"": word, "-why": why, "-status": str(status)}
        await context.send_initial_metadata(
            tuple((f"x-quarantine{name}", value) for name, value in said.items())
        )
        return b""

    @contextmanager
    def _holding(self, size: int) -> Iterator[None]:
        """Keep a request in memory meanwhile.

        Raises:
            OverflowError: there is no room.
        """
        if self._held + size > _ROOM:
            raise OverflowError(f"{self._held} bytes are held")
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    def _refusal(self, suspect: Suspect) -> str:
        names = sorted(each.id for each in entries(suspect, self._catalog.value))
        until = datetime.fromtimestamp(self._clock.wall() + self._lifetime, UTC)
        return (
            f"this request has taken down {' and '.join(names) or f'{BOUND} instances'}; "
            f"identical requests are refused until {until:%H:%M:%S} UTC"
        )

    def _publish(self) -> None:
        self._published.set(self._suspects.watchlist)


async def _listens(instance: Instance) -> bool:
    """Whether there is anybody at an instance's health port."""
    try:
        async with asyncio.timeout(_CONNECT):
            _, writer = await asyncio.open_connection(instance.address, instance.health_port)
    except (TimeoutError, OSError):
        return False
    writer.close()
    return True


def _question(headers: Mapping[str, str | bytes], message: bytes) -> HeldRequest:
    hosts = filter(None, str(headers.get("x-quarantine-hosts", "")).split(","))
    return HeldRequest(
        str(headers.get("x-quarantine-print", "")),
        headers.get("x-quarantine-path") == STREAM_PATH,
        tuple(_endpoint(host) for host in hosts),
        message,
        tuple(
            (name, value)
            for name, value in headers.items()
            if name not in _HOPS and not name.startswith(_HOP) and _may_be_sent(value)
        ),
    )


def _may_be_sent(value: str | bytes) -> bool:
    """Whether gRPC for Python takes it; Envoy lets more pass."""
    return isinstance(value, bytes) or (value.isascii() and value.isprintable())


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.strip().rpartition(":")
    return str(ipaddress.ip_address(host.strip("[]"))), int(port)
