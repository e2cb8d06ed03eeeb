"""The NVML session: which calls a reading makes. Every call may block.

Runs in the one thread of `sidecar.gpu.client`. Source: NVML API Reference Guide.

Acts: through what it imports or is given.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from sidecar.gpu.api import GpuProcess, GpuReading, RowRemap, Selection, Xid
from sidecar.gpu.nvml_errors import Absent, Lost, translated
from sidecar.runtime.errors import Unavailable

_EVENT_WAIT = 1  # milliseconds; NVML has no call that polls without waiting
_MAX_EVENTS = 1000  # of one reading; the next takes the rest
_NO_INSTANCE = 0xFFFFFFFF  # the MIG instance of an event for the whole GPU


@dataclass
class _Device:
    """A MIG instance (`part`) of the GPU `board`; for a whole GPU both handles are the same."""

    part: Any
    board: Any
    index: int | None
    uuid: str
    board_uuid: str
    instance: int | None = None
    name: str = ""
    tells_xids: bool = False


@dataclass
class _Session:
    """The handles that stay open between two readings."""

    devices: list[_Device] = field(default_factory=list)
    broken: list[GpuReading] = field(default_factory=list)
    events: Any = None


class Nvml:
    """Reads GPUs through an NVML session, which it reopens for each reading while a GPU is missing.

    Args:
        selection: the GPUs that count.
        module: a replacement for `pynvml`.
    """

    def __init__(self, selection: Selection, module: Any = None) -> None:
        self._selection = selection
        self._module = module
        self._session: _Session | None = None
        self._xids: dict[str, Counter[int]] = {}
        self._lost: set[str] = set()
        self._seen: set[str] = set()
        self.driver: str | None = None  # its version, once it is known

    def read(self) -> tuple[GpuReading, ...]:
        """A reading of each GPU that counts.

        Raises:
            Unavailable: NVML or the driver cannot be used.
        """
        try:
            session = self._session or self._open()
            self._take_events(session)
            readings = [self._reading(device) for device in session.devices] + session.broken
        except BaseException:
            self.close()
            raise
        working = {reading.uuid for reading in readings if not reading.lost}
        self._seen |= working
        # An open session keeps a GPU from being reset, and does not see one that comes back.
        if not working or working != self._seen or session.broken:
            self.close()
        return tuple(readings)

    def close(self) -> None:
        """Close the session, if there is one; the next reading opens another."""
        session, self._session = self._session, None
        if session is None:
            return
        with suppress(Absent, Lost, Unavailable):
            if session.events is not None:
                self._ask("nvmlEventSetFree", session.events)
        with suppress(Absent, Lost, Unavailable):
            self._ask("nvmlShutdown")

    # --- opening --------------------------------------------------------------------------------

    def _open(self) -> _Session:
        if self._module is None:
            import pynvml

            self._module = pynvml
        try:
            self._ask("nvmlInit")
            # From here on NVML has to be shut down, whatever happens.
            session = self._session = _Session()
            count = self._ask("nvmlDeviceGetCount")
        except (Absent, Lost) as error:
            raise Unavailable(f"NVML: {error}") from None
        self.driver = self._maybe("nvmlSystemGetDriverVersion")
        self._find_boards(session, count)
        self._find_instances(session)
        self._find_missing(session)
        self._subscribe(session)
        return session

    def _find_boards(self, session: _Session, count: int) -> None:
        for index in range(count):
            try:
                handle = self._ask("nvmlDeviceGetHandleByIndex", index)
                uuid = self._ask("nvmlDeviceGetUUID", handle)
            except Absent as error:
                # NVML counts a GPU that the container was not given, but forbids access.
                if error.error == "NVML_ERROR_NO_PERMISSION":
                    continue
                broken = GpuReading("", index, lost=str(error))
            except Lost as error:
                broken = GpuReading("", index, lost=str(error))
            else:
                if self._selection.includes(index, uuid):
                    device = _Device(handle, handle, index, uuid, uuid)
                    device.name = self._maybe("nvmlDeviceGetName", handle) or ""
                    session.devices.append(device)
                continue
            if self._selection.includes(index, ""):
                session.broken.append(broken)

    def _find_instances(self, session: _Session) -> None:
        """Find the named MIG instances; a GPU named as a whole counts without its instances."""
        for name in self._selection.names or ():
            if not name.startswith("MIG-"):
                continue
            with suppress(Absent, Lost):  # then it is missing
                part = self._ask("nvmlDeviceGetHandleByUUID", name)
                board = self._ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", part)
                uuid = self._ask("nvmlDeviceGetUUID", board)
                instance = self._maybe("nvmlDeviceGetGpuInstanceId", part)
                device = _Device(part, board, None, name, uuid, instance)
                device.name = self._maybe("nvmlDeviceGetName", part) or ""
                session.devices.append(device)

    def _find_missing(self, session: _Session) -> None:
        if not self._selection.strict:
            return
        found = [(d.index if d.index is not None else -1, d.uuid) for d in session.devices]
        found += [(r.index if r.index is not None else -1, r.uuid) for r in session.broken]
        for name in self._selection.missing(found):
            index, uuid = (int(name), "") if name.isdecimal() else (None, name)
            lost = "gpu.devices names it, but NVML does not know it"
            session.broken.append(GpuReading(uuid, index, lost=lost))

    def _subscribe(self, session: _Session) -> None:
        """Subscribe to Xid errors on the GPUs that support it."""
        events = session.events = self._maybe("nvmlEventSetCreate")
        if events is None:
            return
        xid = self._module.nvmlEventTypeXidCriticalError
        boards = {device.board_uuid: device.board for device in session.devices}
        for uuid, board in boards.items():
            with suppress(Absent, Lost):  # if it is lost, its reading shows it
                if self._ask("nvmlDeviceGetSupportedEventTypes", board) & xid:
                    self._ask("nvmlDeviceRegisterEvents", board, xid, events)
                    for device in session.devices:
                        device.tells_xids |= device.board_uuid == uuid

    # --- reading --------------------------------------------------------------------------------

    def _take_events(self, session: _Session) -> None:
        if not any(device.tells_xids for device in session.devices):
            return
        # A timeout is the usual end; if a GPU is lost, its reading shows it.
        with suppress(Absent, Lost):
            for _ in range(_MAX_EVENTS):
                event = self._ask("nvmlEventSetWait_v2", session.events, _EVENT_WAIT)
                if event.eventType == self._module.nvmlEventTypeXidCriticalError:
                    self._count(session, event)

    def _count(self, session: _Session, event: Any) -> None:
        """Count an Xid for its GPU, or for all if that GPU no longer reports its UUID."""
        try:
            uuid = self._ask("nvmlDeviceGetUUID", event.device)
        except (Absent, Lost):
            uuid = None
        for device in session.devices:
            whole = event.gpuInstanceId == _NO_INSTANCE or device.instance is None
            concerned = whole or event.gpuInstanceId == device.instance
            if uuid in (None, device.board_uuid) and concerned:
                self._xids.setdefault(device.uuid, Counter())[int(event.eventData)] += 1

    def _reading(self, device: _Device) -> GpuReading:
        known = GpuReading(device.uuid, device.index, device.name)
        try:
            reading = self._ask_all(known, device.part, device.board)
        except Lost as error:
            self._lost.add(device.uuid)
            return replace(known, lost=str(error), xids=self._xids_of(device))
        if device.uuid in self._lost:  # it works again after a reset, which cleared its errors
            self._lost.discard(device.uuid)
            self._xids.pop(device.uuid, None)
        return replace(reading, xids=self._xids_of(device))

    def _xids_of(self, device: _Device) -> tuple[Xid, ...] | None:
        if not device.tells_xids:
            return None
        counted = self._xids.get(device.uuid, Counter())
        return tuple(Xid(number, count) for number, count in sorted(counted.items()))

    def _ask_all(self, known: GpuReading, part: Any, board: Any) -> GpuReading:
        nvml, maybe = self._module, self._maybe
        memory = maybe("nvmlDeviceGetMemoryInfo", part)
        utilization = maybe("nvmlDeviceGetUtilizationRates", board)
        retiring = maybe("nvmlDeviceGetRetiredPagesPendingStatus", board)
        sensor = nvml.NVML_TEMPERATURE_GPU
        return replace(
            known,
            memory_free=None if memory is None else int(memory.free),
            memory_total=None if memory is None else int(memory.total),
            utilization=None if utilization is None else utilization.gpu / 100,
            ecc=maybe(
                "nvmlDeviceGetTotalEccErrors",
                board,
                nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                nvml.NVML_VOLATILE_ECC,
            ),
            retirement_pending=None if retiring is None else bool(retiring),
            row_remap=_row_remap(maybe("nvmlDeviceGetRemappedRows", board)),
            # Drivers before R535 only have the second of these names.
            throttling=self._first(
                lambda: maybe("nvmlDeviceGetCurrentClocksEventReasons", board),
                lambda: maybe("nvmlDeviceGetCurrentClocksThrottleReasons", board),
            ),
            temperature=self._first(
                lambda: maybe("nvmlDeviceGetTemperatureV", board, sensor),
                lambda: maybe("nvmlDeviceGetTemperature", board, sensor),
            ),
            slowdown_temperature=maybe(
                "nvmlDeviceGetTemperatureThreshold", board, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
            ),
            thermal_margin=maybe("nvmlDeviceGetMarginTemperature", board),
            processes=_processes(
                self._first(
                    lambda: maybe("nvmlDeviceGetComputeRunningProcesses_v3", part),
                    lambda: maybe("nvmlDeviceGetComputeRunningProcesses_v2", part),
                )
            ),
        )

    # --- asking ---------------------------------------------------------------------------------

    @staticmethod
    def _first(*questions: Callable[[], Any]) -> Any:
        return next((answer for ask in questions if (answer := ask()) is not None), None)

    def _maybe(self, function: str, *arguments: Any) -> Any:
        """The answer, or None if this value is not available."""
        try:
            return self._ask(function, *arguments)
        except Absent:
            return None

    def _ask(self, function: str, *arguments: Any) -> Any:
        """The one place that calls NVML and translates its errors."""
        call = getattr(self._module, function, None)
        if call is None:  # pynvml is older than the function
            raise Absent("NVML_ERROR_FUNCTION_NOT_FOUND", f"pynvml has no {function}")
        try:
            return call(*arguments)
        except self._module.NVMLError as error:
            raise translated(self._module, error) from None


def _row_remap(answer: Any) -> RowRemap | None:
    if answer is None:
        return None
    correctable, uncorrectable, pending, failed = answer
    return RowRemap(int(correctable), int(uncorrectable), bool(pending), bool(failed))


def _processes(answer: Any) -> tuple[GpuProcess, ...] | None:
    if answer is None:
        return None
    return tuple(GpuProcess(int(process.pid), process.usedGpuMemory) for process in answer)
