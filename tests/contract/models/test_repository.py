"""The model set that is read from a repository is the one that a real Triton loads."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sidecar.health.probes.prober import ProbedTriton, Prober
from sidecar.health.progress import Loads, by_name
from sidecar.models.manifest import digest, files_digest
from sidecar.models.repository import Repository
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import ConfigError, Rejected
from sidecar.settings.tables.health import HealthSettings
from sidecar.triton.api import InferenceRequest
from sidecar.triton.client import Triton
from sidecar.triton.tensors import tensor
from sidecar.verdict.evidence import Reason
from tests.support.prober_bench import running
from tests.support.triton_server import TritonServer

pytestmark = pytest.mark.contract
LONG = 60.0  # seconds; machines are shared
ENSEMBLE = """
platform: "ensemble"
input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "embedding" data_type: TYPE_FP32 dims: [ 256 ] } ]
ensemble_scheduling { step [ {
  model_name: "embedder" model_version: -1
  input_map { key: "text" value: "text" }
  output_map { key: "embedding" value: "embedding" }
} ] }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonServer, Path]]:
    folder = tmp_path_factory.mktemp("repository")
    with TritonServer.running(folder, "counter") as running:
        yield running, folder / "models"


@pytest.fixture
async def triton(server: tuple[TritonServer, Path]) -> AsyncIterator[Triton]:
    async with Triton(server[0].grpc) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "policy", "loaded"),
    [
        ("by_default", "", ("10",)),
        ("latest_two", "version_policy { latest { num_versions: 2 } }", ("2", "10")),
        ("all", "version_policy { all { } }", ("0", "1", "2", "10")),
        ("no_choice", "version_policy { }", ("0", "1", "2", "10")),
        ("specific", "version_policy { specific { versions: [ 10, 7, 1 ] } }", ("1", "10")),
        ("latest_none", "version_policy { latest { } }", ()),
        ("not_there", "version_policy { specific { versions: [ 7 ] } }", ()),
    ],
)
async def test_the_version_policy_is_interpreted_as_by_triton(
    server: tuple[TritonServer, Path],
    triton: Triton,
    name: str,
    policy: str,
    loaded: tuple[str, ...],
) -> None:
    folder = server[1] / name
    shutil.copytree(server[1] / "counter", folder)
    for version in ("0", "2", "10", "02", "drafts"):
        shutil.copytree(folder / "1", folder / version)
    with (folder / "config.pbtxt").open("a") as config:
        config.write(policy)
    reader = Repository(server[1])
    if not loaded:
        with pytest.raises(ConfigError, match="expected a version"):
            reader.read({name: None})
        with pytest.raises(Rejected, match="at least one version"):
            await triton.load_model(name, LONG)
        return
    cold = reader.read({name: None})
    await triton.load_model(name, LONG)
    versions = (await triton.describe(name, LONG)).versions
    assert cold[0].versions == tuple(sorted(versions, key=int)) == loaded
    assert files_digest(cold) == files_digest(reader.read({name: versions}))
    await triton.unload_model(name, LONG)


async def test_settings_of_the_host_do_not_change_the_model_set(
    server: tuple[TritonServer, Path], triton: Triton
) -> None:
    folder = server[1] / "tuned"
    shutil.copytree(server[1] / "counter", folder)
    config = folder / "config.pbtxt"
    text = config.read_text().partition("instance_group")[0]
    said, files = set(), set()
    for group in ("count: 1", "count: 2", 'count: 1 name: "another"'):
        config.write_text(f"{text}\n# With {group}.\ninstance_group [{{ {group} kind: KIND_CPU }}]")
        await triton.load_model("tuned", LONG)
        said.add(digest([await triton.describe("tuned", LONG)]))
        files.add(files_digest(Repository(server[1]).read({"tuned": None})))
    assert (len(said), len(files)) == (1, 1)
    config.write_text(f'{text}\nparameters {{ key: "a" value {{ string_value: "b" }} }}')
    await triton.load_model("tuned", LONG)
    assert digest([await triton.describe("tuned", LONG)]) not in said
    assert files_digest(Repository(server[1]).read({"tuned": None})) not in files
    await triton.unload_model("tuned", LONG)


async def test_a_load_reloads_the_whole_model_and_a_failed_load_changes_nothing(
    server: tuple[TritonServer, Path], triton: Triton
) -> None:
    folder = server[1] / "edited"
    shutil.copytree(server[1] / "counter", folder)
    await triton.load_model("edited", LONG)
    code = folder / "1" / "model.py"
    text = code.read_text()
    seen = Loads().after(by_name(await triton.statistics(LONG)))
    await _ask(triton)
    for change in (
        lambda: code.write_text(text + "# Edited.\n"),
        lambda: (folder / "notes.txt").write_text("beside it"),
        lambda: shutil.copytree(folder / "1", folder / "2"),
    ):
        change()
        await _ask(triton)
        same = seen.after(by_name(await triton.statistics(LONG)))
        assert same == seen
        await triton.load_model("edited", LONG)
        seen = same.after(by_name(await triton.statistics(LONG)))
        assert seen.by_model["edited"] == same.by_model["edited"] + 1
        await _ask(triton)
        seen = seen.after(by_name(await triton.statistics(LONG)))
    for version in ("1", "2"):
        (folder / version / "model.py").write_text("not Python(")
    with pytest.raises(Rejected):
        await triton.load_model("edited", LONG)
    assert seen.after(by_name(await triton.statistics(LONG))) == seen
    await _ask(triton)
    await triton.unload_model("edited", LONG)


async def test_an_unserved_model_that_never_loads_makes_nothing_unhealthy(
    server: tuple[TritonServer, Path], triton: Triton
) -> None:
    folder = server[1] / "broken"
    shutil.copytree(server[1] / "counter", folder)
    (folder / "1" / "model.py").write_text("not Python(")
    with pytest.raises(Rejected):
        await triton.load_model("broken", LONG)
    try:
        assert not await triton.server_ready(LONG)
        settings = HealthSettings(grace=60.0).rules
        for served, reason in (("counter", Reason.OK), ("broken", Reason.MODEL_NOT_READY)):
            prober = Prober(
                ProbedTriton(triton, [served]), [], settings, SystemClock(), lambda event: None
            )
            async with asyncio.timeout(LONG), running(prober.loops()):
                async for verdict in prober.assessment.verdict:
                    if verdict.reason is reason:
                        break
            assert verdict.serving is (served == "counter")
    finally:
        shutil.rmtree(folder)
        await triton.unload_model("broken", LONG)


async def _ask(triton: Triton) -> None:
    """Send the edited model a request, and wait until it is counted."""
    value, seconds = tensor("INT32", [1, 1], [1]), tensor("FP32", [1, 1], [0.0])
    step = {"VALUE": value, "SECONDS": seconds}
    await triton.infer(InferenceRequest("edited", (step,), stateful=True), LONG)
    async with asyncio.timeout(LONG):
        while not any(
            each.executions for each in await triton.statistics(LONG) if each.model == "edited"
        ):
            await asyncio.sleep(0.01)


async def test_an_ensemble_is_loaded_and_unloaded_with_its_models(
    server: tuple[TritonServer, Path], triton: Triton
) -> None:
    inner = Path(__file__).resolve().parents[3] / "triton_models" / "embedder"
    shutil.copytree(inner, server[1] / "embedder", ignore=shutil.ignore_patterns("__*__"))
    (server[1] / "ensemble" / "1").mkdir(parents=True)
    (server[1] / "ensemble" / "config.pbtxt").write_text(ENSEMBLE)
    read = Repository(server[1]).read({"ensemble": None})
    assert [model.name for model in read] == ["embedder", "ensemble"]
    await triton.load_model("ensemble", LONG)
    assert await triton.model_ready("embedder", LONG)
    await triton.unload_model("ensemble", LONG)
    assert not await triton.model_ready("ensemble", LONG)
    assert not await triton.model_ready("embedder", LONG)
