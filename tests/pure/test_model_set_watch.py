"""The loop that keeps the digest of the model set, with files and without."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.health.probe import Identity
from sidecar.health.progress import Loads
from sidecar.latest import Latest
from sidecar.models import repository
from sidecar.models.loaded import Loaded, Memory
from sidecar.models.manifest import digest, files_digest
from sidecar.models.memory import MemoryFile
from sidecar.models.repository import Repository
from sidecar.models.watch import ModelSetWatch
from sidecar.triton_api import ModelDescription, Statistics
from tests.virtual_clock import VirtualClock

LONG = 60.0  # seconds; machines are shared


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for version in ("1", "2"):
        folder = tmp_path / "chat" / version
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(version)
    return tmp_path


def found(folder: Path, versions: tuple[str, ...] | None = None) -> str:
    return files_digest(Repository(folder).read({"chat": versions}))


def served(*versions: str) -> Identity:
    return Identity("2.51.0", (ModelDescription("chat", versions, b"c"),))


class Bench:
    """A `ModelSetWatch` that runs, on a clock turned by hand."""

    def __init__(self, folder: Path | None, state: Path | None = None) -> None:
        kept = MemoryFile(state, lambda _: None)
        memory = kept.read()
        self.clock = VirtualClock()
        self.identity: Latest[Identity] = Latest(Identity())
        self.loads: Latest[Loads] = Latest(Loads.since(memory.counted))
        self.told: list[str] = []
        self.astray: list[tuple[str, ...]] = []
        self.watch = ModelSetWatch(
            self.identity,
            self.loads,
            folder,
            ["chat"],
            30.0,
            self.clock,
            self.told.append,
            self.astray.append,
            memory,
            self._write,
        )
        self._kept, self.written = kept, 0

    def _write(self, models: tuple[Loaded, ...]) -> None:
        self._kept.write(Memory(models=models, counted=self.loads.value.counted))
        self.written += 1

    async def __aenter__(self) -> "Bench":
        self.task = asyncio.create_task(self.watch.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})
        assert self.task.cancelled()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until it is so."""
        async with asyncio.timeout(LONG):
            while not condition():
                await self.clock.advance(1)
                await asyncio.sleep(0.001)


async def test_without_files_the_digest_is_what_triton_says() -> None:
    async with Bench(None) as bench:
        await bench.clock.advance(100)
        assert bench.watch.digest.value == ""
        for identity in (served("1"), served("2")):
            bench.identity.set(identity)
            await bench.clock.advance(0)
            assert bench.watch.digest.value == digest(identity.models)


async def test_a_cold_standby_has_the_digest_of_what_it_would_load(models: Path) -> None:
    async with Bench(models) as bench:
        await bench.until(lambda: bench.watch.digest.value == found(models))
        version, cold = bench.watch.digest.version, bench.watch.digest.value
        bench.identity.set(served("2"))
        await bench.clock.advance(100)
        assert bench.watch.digest.version == version
        bench.identity.set(served("1"))
        await bench.clock.advance(0)
        assert bench.watch.digest.value != cold  # rather "" than that of another version
        await bench.until(lambda: bench.watch.digest.value == found(models, ("1",)))
    assert bench.told == []


async def test_the_order_of_versions_changes_nothing(models: Path) -> None:
    async with Bench(models) as bench:
        bench.identity.set(served("1", "2"))
        await bench.until(lambda: bench.watch.digest.value == found(models, ("1", "2")))
        version = bench.watch.digest.version
        bench.identity.set(served("2", "1"))
        await bench.clock.advance(100)
        assert bench.watch.digest.version == version


async def test_changed_files_of_a_cold_standby_are_noticed(models: Path) -> None:
    async with Bench(models) as bench:
        await bench.until(lambda: bench.watch.digest.value == found(models))
        edit(models)
        await bench.until(lambda: bench.watch.digest.value == found(models))
    assert bench.astray == []


def edit(models: Path, text: str = "changed") -> None:
    (models / "chat" / "2" / "model.py").write_text(text)


LOADED_ANEW = {
    "the model": lambda bench: bench.loads.set(Loads(0, {"chat": 1})),
    "the server": lambda bench: bench.loads.set(Loads(1)),
    "with another config": lambda bench: bench.identity.set(
        Identity("2.51.0", (ModelDescription("chat", ("2",), b"other"),))
    ),
    "unloaded and loaded": lambda bench: bench.identity.set(Identity()),
}


@pytest.mark.parametrize("loading", LOADED_ANEW)
async def test_changed_files_count_when_they_are_loaded(models: Path, loading: str) -> None:
    async with Bench(models) as bench:
        bench.identity.set(served("2"))
        await bench.until(lambda: bench.watch.digest.value == found(models, ("2",)))
        loaded = bench.watch.digest.value
        edit(models)
        await bench.until(lambda: bench.astray == [("chat",)])
        await bench.clock.advance(100)
        assert bench.watch.digest.value == loaded != found(models, ("2",))
        LOADED_ANEW[loading](bench)
        await bench.until(lambda: bench.watch.digest.value == found(models, ("2",)))
        assert bench.astray == [("chat",), ()]
        edit(models, "again")
        await bench.until(
            lambda: bench.astray[2:] == [("chat",)] or not bench.identity.value.models
        )


async def test_files_that_are_changed_back_are_what_is_loaded(models: Path) -> None:
    async with Bench(models) as bench:
        bench.identity.set(served("2"))
        await bench.until(lambda: bench.watch.digest.value == found(models, ("2",)))
        version = bench.watch.digest.version
        edit(models)
        await bench.until(lambda: bench.astray == [("chat",)])
        edit(models, "2")
        await bench.until(lambda: bench.astray == [("chat",), ()])
        assert bench.watch.digest.version == version


async def test_what_cannot_be_read_is_told_once_and_the_last_digest_stays(models: Path) -> None:
    async with Bench(models) as bench:
        await bench.until(lambda: bench.watch.digest.value != "")
        known = bench.watch.digest.value
        link = models / "chat" / "2" / "link"
        link.symlink_to("nowhere")
        await bench.until(lambda: len(bench.told) == 1)
        await bench.clock.advance(100)
        assert bench.watch.digest.value == known
        bench.identity.set(served("1", "2"))
        await bench.until(lambda: bench.watch.digest.value == "")
        link.unlink()
        await bench.until(lambda: bench.watch.digest.value == found(models, ("1", "2")))
    assert [bool(why) for why in bench.told] == [True, False]
    assert "expected a link to something that is there" in bench.told[0]


async def test_a_long_reading_blocks_nothing_and_is_given_up_at_the_end(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> object:
        reading.set()
        assert go_on.wait(LONG)
        return opened(path)

    opened = repository._opened
    monkeypatch.setattr(repository, "_opened", slow)
    async with Bench(models) as bench:
        await bench.until(reading.is_set)
        assert bench.watch.digest.value == ""
    go_on.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    reader = bench.watch._repository
    assert reader is not None
    assert reader.bytes_read == 0


def asked(times: int, seconds: float = 1.0) -> Statistics:
    return Statistics("chat", "2", times, executions=times, success_seconds=times * seconds)


async def loaded_and_edited(models: Path, state: Path) -> str:
    """Have a sidecar see a model loaded, asked and edited; gives the digest of what is loaded."""
    async with Bench(models, state) as bench:
        bench.identity.set(served("2"))
        bench.loads.set(bench.loads.value.after([asked(5)]))
        await bench.until(lambda: bench.watch.digest.value == found(models, ("2",)))
        digest = bench.watch.digest.value
        edit(models)
        await bench.until(lambda: bench.astray == [("chat",)])
        written = bench.written
        await bench.until(lambda: bench.written > written)  # or it would be written afterwards
    return digest


@pytest.mark.parametrize(
    ("statistics", "same"),
    [
        ([asked(5)], True),
        ([asked(70)], True),
        ([asked(4)], False),
        ([asked(70, seconds=0.01)], False),
        ([], True),  # nothing is known yet
    ],
)
async def test_a_sidecar_that_is_started_anew_remembers_what_is_loaded(
    models: Path, tmp_path: Path, statistics: list[Statistics], same: bool
) -> None:
    state = tmp_path / "state.json"
    loaded = await loaded_and_edited(models, state)
    async with Bench(models, state) as bench:
        await bench.until(lambda: bench.watch.digest.value != "")
        assert bench.watch.digest.value == loaded  # nothing else is told before Triton is asked
        if statistics:
            # As Triton has counted by now, which is told by the first look at it.
            bench.loads.set(bench.loads.value.after(statistics))
        bench.identity.set(served("2"))
        expected = loaded if same else found(models, ("2",))
        await bench.until(lambda: bench.watch.digest.value == expected)
        await bench.clock.advance(100)
        assert bench.watch.digest.value == expected
        assert bench.astray[-1] == (("chat",) if same else ())


async def test_what_is_remembered_of_a_triton_that_has_unloaded_it_is_forgotten(
    models: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    await loaded_and_edited(models, state)
    async with Bench(models, state) as bench:
        bench.loads.set(bench.loads.value.after([]))
        await bench.until(lambda: bench.watch.digest.value == found(models))


@pytest.mark.parametrize("spoilt", ["{", "[]", '{"format": 2}', '{"format": 1, "memory": 3}', None])
async def test_without_a_memory_it_takes_what_lies_there(
    models: Path, tmp_path: Path, spoilt: str | None
) -> None:
    state = tmp_path / "state.json"
    await loaded_and_edited(models, state)
    if spoilt is None:  # of another start of the machine
        text = state.read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert boot in text
        spoilt = text.replace(boot, "another")
    state.write_text(spoilt)
    async with Bench(models, state) as bench:
        bench.loads.set(bench.loads.value.after([asked(5)]))
        bench.identity.set(served("2"))
        await bench.until(lambda: bench.watch.digest.value == found(models, ("2",)))


def test_a_memory_that_cannot_be_kept_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    kept = MemoryFile(tmp_path / "none" / "state.json", told.append)
    assert kept.read() == Memory()
    kept.write(Memory())
    kept.write(Memory())
    (tmp_path / "none").mkdir()
    kept.write(Memory())
    assert [bool(why) for why in told] == [True, False]
