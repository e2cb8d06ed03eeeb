"""The quarantine service: requests that crashed two instances are tried alone.

Envoy asks before it retries such a request (`config/filters/quarantine.lua`). The request is then
tried on one of the two instances, as soon as that is back, or on one that joined since: whatever it
does, no instance crashes that had survived it. An answer clears the request.

Acts: asyncio, grpc.
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
from sidecar.xds.config.filters.model_filter import model_of
from sidecar.xds.config.methods import STREAM_PATH
from sidecar.xds.metrics import ControlPlaneMetrics
from sidecar.xds.publication import Publication
from sidecar.xds.quarantine.suspects import (
    BOUND,
    Endpoint,
    Suspect,
    Suspects,
    entries,
    trial_places,
)
from sidecar.xds.quarantine.trials import (
    LONGEST,
    Answer,
    HeldRequest,
    OversizedError,
    TrialOutcome,
    Trials,
)

SERVICE = "sidecar.v1.QuarantineService"
# Seconds until an instance that is not back, or gave no clear answer, is tried again.
_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_FORGET = 1.0  # seconds between removals of expired suspects
# Seconds of silence of an instance's sidecar after which its machine is to blame.
_SILENT = 5.0
_CONNECT = 1.0  # seconds
# Bytes of requests held at the same time.
_ROOM = 1 << 28
# Headers that are not the client's own, or only about the way to this server.
_HOP_PREFIXES = (
    "grpc-",
    "x-envoy-",
    "x-quarantine-",
    "x-triton-sidecar-",
    "x-forwarded-",
    "x-request-id",
)
_HOP_HEADERS = {"te", "content-type", "user-agent"}


class Quarantine:
    """Tries suspects; their fingerprints go to all Envoys."""

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
        # Running trials; a trial continues even if its sender has timed out.
        self._cases: dict[str, asyncio.Task[OversizedError | None]] = {}

    def handler(self) -> grpc.GenericRpcHandler:  # type: ignore[type-arg]
        """For the server: requests arrive as clients sent them, the outcome is in the metadata."""
        method = grpc.unary_unary_rpc_method_handler(self._serve)
        return grpc.method_handlers_generic_handler(SERVICE, {"Try": method})

    async def run(self) -> None:
        """Remove expired suspects; never returns. Ends every trial when cancelled."""
        try:
            while True:
                await self._clock.sleep(_FORGET)
                self._suspects.forget(self._clock.now())
                self._publish()
        finally:
            for case in self._cases.values():
                case.cancel()

    async def judge(self, request: HeldRequest) -> tuple[str, str, int]:
        """Whether the request may be retried: `go`, `refused`, or `told` (an answer to pass on).

        With the reason as text, and the gRPC status of the answer to pass on.

        Raises:
            OverflowError: too much is held already.
            LookupError: the service is unknown.
        """
        name, now = request.fingerprint, self._clock.now()
        found = self._suspects.accuse(name, request.endpoints, self._catalog.value, now)
        self._publish()
        while found is not None and not found.guilty:
            if (passed_on := await self._outcome(request)) is not None:
                return "told", passed_on.text, passed_on.status
            found = self._suspects.find(name)
        return ("go", "", 0) if found is None else ("refused", found.refusal, 0)

    async def _outcome(self, request: HeldRequest) -> OversizedError | None:
        """Wait for the verdict, or until the suspect expires; returns an error to be passed on."""
        name = request.fingerprint
        if (case := self._cases.get(name)) is not None:
            with self._holding(len(request.message)):  # an identical one
                await asyncio.wait([case])
        else:
            case = asyncio.create_task(self._investigate(request), name=name)
            self._cases[name] = case
            case.add_done_callback(lambda _: self._cases.pop(name))
            await asyncio.wait([case])
        return case.result()

    async def _investigate(self, request: HeldRequest) -> OversizedError | None:
        """Try a suspect until there is a verdict, or it expires."""
        pause, exclusive = _PAUSE, False
        # Since when (monotonic seconds) a sidecar has been silent.
        silent: dict[Endpoint, float] = {}
        with self._holding(len(request.message)):
            while suspect := self._open(request):
                seen = self._catalog.version
                outcome = await self._tried(request, suspect, exclusive=exclusive)
                if isinstance(outcome, OversizedError):
                    return outcome
                if outcome is TrialOutcome.NOTHING:
                    await self._look_at_machines(request, suspect, silent)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                elif outcome is TrialOutcome.DOWN:
                    pause, exclusive = _PAUSE, True
                    silent.clear()
                if self._open(request):
                    await first_of(self._clock, pause, self._catalog.changed(seen))
        return None

    async def _tried(self, request: HeldRequest, suspect: Suspect, *, exclusive: bool) -> Answer:
        """The outcome of a trial, if there is an instance for it."""
        crashes, busy = suspect.crashes, self._trials.busy
        where = min(
            trial_places(suspect, self._catalog.value, request.model),
            key=lambda way: (crashes.get(way[0].endpoint, 0), busy(way[0].endpoint)),
            default=None,
        )
        if where is None:
            return TrialOutcome.NOTHING
        outcome, alone = await self._trials.run(
            where,
            request,
            wanted=lambda: self._open(request) is not None,
            exclusive=exclusive,
        )
        self._conclude(request, where[0], outcome, alone)
        return outcome

    def _open(self, request: HeldRequest) -> Suspect | None:
        """The suspect, if there is no verdict yet."""
        found = self._suspects.find(request.fingerprint)
        return None if found is None or found.guilty else found

    def _conclude(
        self, request: HeldRequest, instance: Instance, answer: Answer, alone: bool
    ) -> None:
        name = request.fingerprint
        outcome = TrialOutcome.ANSWERED if isinstance(answer, OversizedError) else answer
        self._metrics.trials.labels(outcome.value).inc()
        if outcome is TrialOutcome.ANSWERED:
            self._suspects.acquit(name)
        elif outcome is TrialOutcome.DOWN and alone:
            found = self._suspects.crashed_in_trial(name, instance.endpoint, self._clock.now())
            if found is not None and found.guilty:
                self._suspects.refuse(name, self._refusal(found))
                self._log.warning(
                    "request_quarantined",
                    fingerprint=name,
                    bytes=len(request.message),
                    instance=instance.id,
                    seconds=self._lifetime,
                )
        self._publish()

    async def _look_at_machines(
        self, request: HeldRequest, suspect: Suspect, silent: dict[Endpoint, float]
    ) -> None:
        """Release it, once, if an instance's machine or network is gone.

        A request crashes a Triton, and hardly ever the sidecar next to it.
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
                    fingerprint=request.fingerprint,
                    instance=instance.id,
                )
                self._suspects.pardon(request.fingerprint, now)
                self._publish()
                return

    async def _serve(self, message: bytes, context: Any) -> bytes:
        outcome, why, status = "unknown", "", 0
        with suppress(TimeoutError, OverflowError, LookupError):
            request = _held_request(dict(context.invocation_metadata()), message)
            async with asyncio.timeout(LONGEST):
                outcome, why, status = await self.judge(request)
        outcome_headers = {"": outcome, "-why": why, "-status": str(status)}
        await context.send_initial_metadata(
            tuple((f"x-quarantine{name}", value) for name, value in outcome_headers.items())
        )
        return b""

    @contextmanager
    def _holding(self, size: int) -> Iterator[None]:
        """Account for a request kept in memory.

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
    """Whether anything listens on an instance's health port."""
    try:
        async with asyncio.timeout(_CONNECT):
            _, writer = await asyncio.open_connection(instance.address, instance.health_port)
    except (TimeoutError, OSError):
        return False
    writer.close()
    return True


def _held_request(headers: Mapping[str, str | bytes], message: bytes) -> HeldRequest:
    hosts = filter(None, str(headers.get("x-quarantine-hosts", "")).split(","))
    return HeldRequest(
        str(headers.get("x-quarantine-print", "")),
        headers.get("x-quarantine-path") == STREAM_PATH,
        tuple(_endpoint(host) for host in hosts),
        message,
        tuple(
            (name, value)
            for name, value in headers.items()
            if name not in _HOP_HEADERS
            and not name.startswith(_HOP_PREFIXES)
            and _may_be_sent(value)
        ),
        model_of(message),
    )


def _may_be_sent(value: str | bytes) -> bool:
    """Whether gRPC for Python accepts the value; Envoy lets more through."""
    return isinstance(value, bytes) or (value.isascii() and value.isprintable())


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.strip().rpartition(":")
    return str(ipaddress.ip_address(host.strip("[]"))), int(port)
