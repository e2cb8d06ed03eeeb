"""The loop that maintains the digest of the model set, with and without files."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.health.canary.derived_canary import Proven
from sidecar.health.probes.prober import TritonIdentity
from sidecar.health.progress import Counted, Loads, by_name
from sidecar.models import loaded_set, repository
from sidecar.models.dependencies import described
from sidecar.models.loaded_set import LoadedModel, LoadedSet, LoadId
from sidecar.models.loaded_set_file import LoadedSetFile
from sidecar.models.manifest import ModelFiles, digest, files_digest
from sidecar.models.model_set_watch import ModelSetReports, ModelSetWatch
from sidecar.models.repository import Repository
from sidecar.models.rules import ModelSetRules
from sidecar.runtime import atomic_file
from sidecar.runtime.latest import Latest
from sidecar.triton.api import ModelDescription, Statistics
from sidecar.xds.catalog import cached_state
from sidecar.xds.catalog.cached_state import CachedState
from tests.support.fake_triton import FakeModel, FakeTriton
from tests.support.virtual_clock import VirtualClock

pytestmark = pytest.mark.files

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


def served(*versions: str) -> TritonIdentity:
    return TritonIdentity("2.51.0", (ModelDescription("chat", versions, b"c"),))


class Bench:
    """A `ModelSetWatch` that runs, on a manual clock."""

    def __init__(
        self, folder: Path | None, state: Path | None = None, interval: float = 30.0
    ) -> None:
        self.clock = VirtualClock()
        self.failures: list[str] = []
        self.file = LoadedSetFile(state, "a", self.clock, self.failures.append) if state else None
        memory = self.file.read() if self.file else LoadedSet()
        self.identity: Latest[TritonIdentity] = Latest(TritonIdentity())
        self._looked = Loads.since(memory.counted)
        self.loads: Latest[Loads] = Latest(self._looked)
        self.reported: list[str] = []
        self.astray: list[tuple[str, ...]] = []
        self.watch = ModelSetWatch(
            self.identity,
            self.loads,
            ModelSetRules(("chat",), folder, interval),
            self.clock,
            ModelSetReports(self.reported.append, self.astray.append),
            memory,
        )

    def look(self, *statistics: Statistics) -> None:
        """Read Triton's counters, as a prober does: the cell has them as of the load."""
        self._looked = self._looked.after(by_name(statistics))
        self.loads.set(self._looked)

    def newest(self) -> LoadedSet:
        return LoadedSet(models=self.watch.known(), counted=self._looked.counted)

    async def __aenter__(self) -> "Bench":
        self.tasks = {asyncio.create_task(self.watch.run())}
        if self.file:
            run = self.file.run(self.newest, self.watch.loaded, self.loads)
            self.tasks.add(asyncio.create_task(run))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        assert all(task.cancelled() for task in self.tasks)
        if self.file and self.file._writing:
            await asyncio.wait({self.file._writing})

    async def until(self, condition: Callable[[], bool]) -> None:
        """Advance the clock until the condition holds, but not while a thread reads or writes."""
        async with asyncio.timeout(LONG):
            while not condition():
                if not at_work():
                    await self.clock.advance(1)
                await asyncio.sleep(0.001)


def at_work() -> bool:
    """Whether a thread reads or writes files, which the clock does not know."""
    return any(each.name in ("model files", "model memory") for each in threading.enumerate())


async def test_without_files_the_digest_covers_triton_s_descriptions() -> None:
    async with Bench(None) as bench:
        await bench.clock.advance(100)
        assert bench.watch.digest.value == ""
        for identity in (served("1"), served("2")):
            bench.identity.set(identity)
            await bench.clock.advance(0)
            assert bench.watch.digest.value == digest(identity.models)


async def test_dependencies_of_served_models_are_described_as_well() -> None:
    both = ModelDescription("both", ("1",), b"e", steps=("inner",))
    triton = FakeTriton(VirtualClock(), *map(FakeModel, (
        ModelDescription("inner", ("1",), b"i"), ModelDescription("called", ("1",), b"c"),
    )))  # fmt: skip
    needed = {"inner": ("called",), "called": ("both",)}
    async with Bench(None) as bench:
        bench.watch._describe = lambda models: described(triton, models, needed)
        bench.identity.set(TritonIdentity("2.51.0", (both,)))
        await bench.clock.advance(0)
        inner, called = (triton.models[name].description for name in ("inner", "called"))
        assert bench.watch.digest.value == digest([both, inner, called])
        # It is reloaded without any change to the served models.
        triton.models["called"].description = newer = replace(called, versions=("2",))
        bench.look(Statistics("called", "1", successes=5))
        bench.look(Statistics("called", "2"))
        await bench.clock.advance(0)
        assert bench.watch.digest.value == digest([both, inner, newer])
        triton.models["called"].loaded = False
        bench.look()
        await bench.clock.advance(0)
        assert bench.watch.digest.value == ""  # its version is unknown
        triton.models["called"].loaded = True
        await bench.clock.advance(30)
        assert bench.watch.digest.value == digest([both, inner, newer])


async def test_a_cold_standby_has_the_digest_of_what_it_would_load(models: Path) -> None:
    async with Bench(models) as bench:
        await bench.until(lambda: bench.watch.digest.value == found(models))
        version, cold = bench.watch.digest.version, bench.watch.digest.value
        bench.identity.set(served("2"))
        await bench.clock.advance(100)
        assert bench.watch.digest.version == version
        bench.identity.set(served("1"))
        await bench.clock.advance(0)
        assert bench.watch.digest.value != cold  # "" rather than the digest of another version
        await bench.until(lambda: bench.watch.digest.value == found(models, ("1",)))
    assert bench.reported == []


async def test_the_order_of_versions_does_not_matter(models: Path) -> None:
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


RELOADS = {
    "the model": lambda bench: bench.loads.set(Loads(0, {"chat": 1})),
    "the server": lambda bench: bench.loads.set(Loads(1)),
    "with another config": lambda bench: bench.identity.set(
        TritonIdentity("2.51.0", (ModelDescription("chat", ("2",), b"other"),))
    ),
    "unloaded and loaded": lambda bench: bench.identity.set(TritonIdentity()),
}


@pytest.mark.parametrize("loading", RELOADS)
async def test_changed_files_count_once_they_are_loaded(models: Path, loading: str) -> None:
    async with Bench(models) as bench:
        bench.identity.set(served("2"))
        await bench.until(lambda: bench.watch.digest.value == found(models, ("2",)))
        loaded = bench.watch.digest.value
        edit(models)
        await bench.until(lambda: bench.astray == [("chat",)])
        await bench.clock.advance(100)
        assert bench.watch.digest.value == loaded != found(models, ("2",))
        RELOADS[loading](bench)
        await bench.until(lambda: bench.watch.digest.value == found(models, ("2",)))
        assert bench.astray == [("chat",), ()]
        edit(models, "again")
        await bench.until(
            lambda: bench.astray[2:] == [("chat",)] or not bench.identity.value.models
        )


async def test_files_that_are_changed_back_match_the_loaded_ones(models: Path) -> None:
    async with Bench(models) as bench:
        bench.identity.set(served("2"))
        await bench.until(lambda: bench.watch.digest.value == found(models, ("2",)))
        version = bench.watch.digest.version
        edit(models)
        await bench.until(lambda: bench.astray == [("chat",)])
        edit(models, "2")
        await bench.until(lambda: bench.astray == [("chat",), ()])
        assert bench.watch.digest.version == version


async def test_unreadable_files_are_reported_once_and_the_last_digest_stays(models: Path) -> None:
    async with Bench(models) as bench:
        await bench.until(lambda: bench.watch.digest.value != "")
        known = bench.watch.digest.value
        link = models / "chat" / "2" / "link"
        link.symlink_to("nowhere")
        await bench.until(lambda: len(bench.reported) == 1)
        await bench.clock.advance(100)
        assert bench.watch.digest.value == known
        bench.identity.set(served("1", "2"))
        await bench.until(lambda: bench.watch.digest.value == "")
        assert len(bench.reported) == 1
        link.unlink()  # a read may see it halfway, and report another reason
        await bench.until(lambda: bench.watch.digest.value == found(models, ("1", "2")))
    assert bench.reported[-1] == ""
    assert str(link) in bench.reported[0]


@pytest.mark.parametrize("loading", RELOADS)
async def test_loaded_models_without_readable_files_have_no_digest(
    models: Path, loading: str
) -> None:
    async with Bench(models, interval=3600.0) as bench:
        bench.identity.set(served("2"))
        await bench.until(lambda: bench.watch.digest.value == found(models, ("2",)))
        link = models / "chat" / "2" / "link"
        link.symlink_to("nowhere")
        RELOADS[loading](bench)
        await bench.until(lambda: bool(bench.reported))
        assert bench.watch.digest.value == ""
        assert bench.watch.known() == ()
        link.unlink()
        before = bench.clock.now()
        await bench.until(lambda: bench.watch.digest.value == found(models, ("2",)))
        assert bench.clock.now() - before < 3600  # soon, despite the interval


async def test_a_long_read_blocks_nothing_and_is_abandoned_at_the_end(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, proceed = threading.Event(), threading.Event()

    def slow(path: Path) -> object:
        reading.set()
        assert proceed.wait(LONG)
        return opened(path)

    opened = repository._opened
    monkeypatch.setattr(repository, "_opened", slow)
    async with Bench(models) as bench:
        await bench.until(reading.is_set)
        assert bench.watch.digest.value == ""
    proceed.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    reader = bench.watch._repository
    assert reader is not None
    assert reader.bytes_read == 0


def asked(times: int, seconds: float = 1.0) -> Statistics:
    return Statistics("chat", "2", times, executions=times, success_seconds=times * seconds)


async def loaded_and_edited(models: Path, state: Path, stopped: bool = True) -> str:
    """Have a sidecar see a model loaded, edited and queried; returns the digest of the loaded
    model.

    It is `stopped` gracefully, or some time later without saving.
    """
    async with Bench(models, state, interval=120.0) as bench:
        bench.identity.set(served("2"))
        bench.look(asked(2))
        await bench.until(lambda: bench.watch.digest.value == found(models, ("2",)))
        digest = bench.watch.digest.value
        edit(models)
        await bench.until(lambda: bench.astray == [("chat",)])
        version = bench.loads.version
        bench.look(asked(5))
        assert bench.loads.version == version
        if stopped:
            assert bench.file
            await bench.file.write(bench.newest)
        else:
            before = bench.clock.now()
            await bench.until(lambda: b'"successes":5' in state.read_bytes())
            assert bench.clock.now() - before < 60  # however seldom it reads the files
    return digest


@pytest.mark.parametrize("stopped", [True, False])
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
async def test_a_restarted_sidecar_remembers_what_is_loaded(
    models: Path, tmp_path: Path, statistics: list[Statistics], same: bool, stopped: bool
) -> None:
    state = tmp_path / "state.json"
    loaded = await loaded_and_edited(models, state, stopped)
    async with Bench(models, state) as bench:
        await bench.until(lambda: bench.watch.digest.value != "")
        assert bench.watch.digest.value == loaded  # until Triton is queried
        if statistics:
            # Triton's present counters, as the first read returns them.
            bench.look(*statistics)
        bench.identity.set(served("2"))
        expected = loaded if same else found(models, ("2",))
        await bench.until(lambda: bench.watch.digest.value == expected)
        await bench.clock.advance(100)
        assert bench.watch.digest.value == expected
        assert bench.astray[-1] == (("chat",) if same else ())


async def test_a_remembered_model_that_triton_has_unloaded_is_forgotten(
    models: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    await loaded_and_edited(models, state)
    async with Bench(models, state) as bench:
        bench.look()
        await bench.until(lambda: bench.watch.digest.value == found(models))


OURS = '{"loaded_models":2,"instance":"a"}\n'


@pytest.mark.parametrize(
    "spoilt",
    ["", "{", "[]", OURS, OURS + "3", OURS + "[" * 10**5, OURS.replace("2", "3") + "{}", None],
)
async def test_without_a_saved_state_the_files_on_disk_count(
    models: Path, tmp_path: Path, spoilt: str | None
) -> None:
    state = tmp_path / "state.json"
    await loaded_and_edited(models, state)
    if spoilt is None:  # from another boot of the machine
        text = state.read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert boot in text
        spoilt = text.replace(boot, "another")
    state.write_text(spoilt)
    async with Bench(models, state) as bench:
        bench.look(asked(5))
        bench.identity.set(served("2"))
        await bench.until(lambda: bench.watch.digest.value == found(models, ("2",)))


def test_without_a_boot_id_nothing_is_restored() -> None:
    memory = LoadedSet(
        "", (LoadedModel(ModelFiles("chat", ("1",)), LoadId()),), {"chat": Counted()}
    )
    booted = replace(memory, boot="b")
    assert loaded_set.restore(loaded_set.dump(booted, "a"), "a", "b") == booted
    for each, boot in ((memory, ""), (memory, "b"), (booted, "")):
        assert loaded_set.restore(loaded_set.dump(each, "a"), "a", boot) == LoadedSet()


def test_a_canarys_proof_survives_a_reboot() -> None:
    memory = LoadedSet("b", proven={"chat": Proven("f", passed=True)})
    for boot in ("b", "another", ""):
        restored = loaded_set.restore(loaded_set.dump(memory, "a"), "a", boot)
        assert restored.proven == memory.proven
    older = loaded_set.dump(memory, "a").replace(b'"proven"', b'"unknown"')
    assert loaded_set.restore(older, "a", "b") == LoadedSet("b")


class Written:
    """A state file, and what was reported about it: whether a write failed, and on which thread."""

    def __init__(self, path: Path, instance: str = "a") -> None:
        self.reported: list[str] = []
        self.threads: set[int] = set()
        self.path = path
        self.file = LoadedSetFile(path, instance, VirtualClock(), self._record)

    def _record(self, why: str) -> None:
        self.reported.append(why)
        self.threads.add(threading.get_ident())

    async def write(self, **counted: Counted) -> None:
        known = (LoadedModel(ModelFiles(name), LoadId()) for name in counted)
        await self.file.write(lambda: LoadedSet("", tuple(known), counted))


async def test_a_state_file_that_cannot_be_written_is_reported_once_on_the_event_loop(
    tmp_path: Path,
) -> None:
    it = Written(tmp_path / "none" / "state.json")
    assert it.file.read() == LoadedSet()
    await it.write()
    await it.write()
    (tmp_path / "none").mkdir()
    await it.write()
    assert [bool(why) for why in it.reported] == [True, False]
    assert it.threads == {threading.get_ident()}


async def test_a_foreign_file_is_neither_restored_nor_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.toml"
    neighbour = Written(path, "b")
    await neighbour.write(chat=Counted(successes=3))
    assert neighbour.file.read().counted == {"chat": Counted(successes=3)}
    for document in (
        path.read_bytes(),
        b"[triton]\n",
        cached_state.dump(CachedState(("triton",)), 0.0),
        b'{"format": 1}',
    ):
        path.write_bytes(document)
        it = Written(path)
        assert it.file.read() == LoadedSet()
        await it.write()
        assert path.read_bytes() == document
        [why] = it.reported
        assert why.startswith(f"{path}: ")


async def test_an_empty_file_or_one_of_the_instance_is_replaced(tmp_path: Path) -> None:
    it = Written(tmp_path / "state.json")
    for document in (b"", OURS.encode(), b'{"loaded_models":7,"more":1,"instance":"a"}\n?'):
        it.path.write_bytes(document)
        await it.write(chat=Counted(successes=3))
        assert it.file.read().counted == {"chat": Counted(successes=3)}
    assert it.reported == []
    assert not cached_state.is_header(it.path.read_bytes().splitlines()[0])  # nor a control plane's


async def test_a_disk_that_hangs_delays_neither_the_watch_nor_the_stop(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, writers, replace_file = threading.Event(), list[threading.Thread](), atomic_file.replace

    def slow(path: Path, document: bytes) -> None:
        writers.append(threading.current_thread())
        assert go.wait(LONG)
        replace_file(path, document)

    monkeypatch.setattr(atomic_file, "replace", slow)
    state = tmp_path / "state.json"
    async with Bench(models, state) as bench:
        await bench.until(lambda: bool(writers))
        for version in ("2", "1"):
            bench.identity.set(served(version))
            bench.look(asked(int(version)))
            digest = found(models, (version,))
            await bench.until(lambda digest=digest: bench.watch.digest.value == digest)  # type: ignore[misc]
        assert bench.file
        stopping = asyncio.create_task(bench.file.write(bench.newest))
        await bench.clock.advance(100)
        assert [each.daemon for each in writers] == [True]  # one at a time, not waited for
        go.set()
        await stopping
        assert b'"successes":1' in state.read_bytes()
