"""A live Triton that rejects the sidecar's requests is distinguished from an unhealthy one."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc
from typer.testing import CliRunner

from sidecar.cli.main import app
from sidecar.health.probes.prober import ProbedTriton, Prober
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import NotAdmitted, Rejected, Unavailable
from sidecar.settings.tables.health import HealthSettings
from sidecar.triton.api import InferenceRequest
from sidecar.triton.client import Triton
from sidecar.triton.tensors import tensor
from sidecar.verdict.evidence import Reason
from tests.support.prober_bench import running
from tests.support.triton_server import TritonServer

pytestmark = pytest.mark.contract
LONG = 60.0  # seconds; machines are shared
ROOT = Path(__file__).resolve().parents[3]
TLS = ROOT / "tests" / "support" / "tls"
HEADER = "triton-grpc-protocol-admission"
ALL = "health,metadata,inference,statistics,model-repository,model-config"
QUESTION = InferenceRequest("embedder", ({"text": tensor("BYTES", [1], ["Hello"])},))


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("restricted")
    option = f"--grpc-restricted-protocol={ALL}:admission=hush"
    with TritonServer.running(folder, "embedder", options=(option,)) as server:
        yield server


async def test_a_restricted_protocol_rejects_requests_without_its_header(
    restricted: TritonServer,
) -> None:
    for headers in ({}, {HEADER: "another"}):
        async with Triton(restricted.grpc, headers=lambda found=headers: found) as client:  # type: ignore[misc]
            await client.connect(LONG)
            for call in (
                client.server_live(LONG),
                client.server_ready(LONG),
                client.server_version(LONG),
                client.model_ready("embedder", LONG),
                client.describe("embedder", LONG),
                client.infer(QUESTION, LONG),
                client.statistics(LONG),
                client.repository_index(LONG),
                client.load_model("embedder", LONG),
                client.unload_model("embedder", LONG),
            ):
                with pytest.raises(NotAdmitted, match=rf"'{HEADER}'.*triton.header_files"):
                    await call


async def test_with_the_header_all_requests_are_accepted(restricted: TritonServer) -> None:
    async with Triton(restricted.grpc, headers=lambda: {HEADER: "hush"}) as client:
        assert await client.server_live(LONG)
        assert await client.server_ready(LONG)
        assert await client.model_ready("embedder", LONG)
        assert (await client.describe("embedder", LONG)).versions == ("1",)
        assert (await client.infer(QUESTION, LONG)).responses == 1
        assert await client.statistics(LONG)
        assert await client.repository_index(LONG)
        await client.load_model("embedder", LONG)


@pytest.mark.parametrize(("value", "reason"), [("another", Reason.CONFIG), ("hush", Reason.OK)])
async def test_a_sidecar_passes_with_the_header_and_names_the_setting_otherwise(
    restricted: TritonServer, value: str, reason: Reason
) -> None:
    async with Triton(restricted.grpc, headers=lambda: {HEADER: value}) as client:
        settings = HealthSettings(grace=60.0).rules
        prober = Prober(
            ProbedTriton(client, ["embedder"]), [], settings, SystemClock(), lambda event: None
        )
        async with asyncio.timeout(LONG), running(prober.loops()):
            async for verdict in prober.assessment.verdict:
                assert verdict.reason in (Reason.NOT_PROVEN_YET, reason)
                if verdict.reason is reason:
                    break
    assert verdict.serving is (reason is Reason.OK)
    assert (HEADER in verdict.detail) is (reason is Reason.CONFIG)


async def test_the_next_request_uses_a_changed_header(
    restricted: TritonServer, tmp_path: Path
) -> None:
    value = tmp_path / "value"
    value.write_text("an old one")
    async with Triton(restricted.grpc, headers=lambda: {HEADER: value.read_text()}) as client:
        value.write_text("hush")
        with pytest.raises(NotAdmitted):
            await client.server_live(LONG)
        assert await client.server_live(LONG)


def test_the_commands_report_a_missing_header_and_read_it_from_a_file(
    restricted: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["canary", *arguments, f"--triton={restricted.grpc}"])
        return result.exit_code, result.output

    monkeypatch.chdir(tmp_path)
    Path("value").write_text("hush\n")
    settings = f"""
        [triton]
        models = ["embedder"]
        [triton.header_files]
        {HEADER} = "value"
    """
    Path("closed.toml").write_text(settings.partition("[triton.header_files]")[0])
    Path("open.toml").write_text(settings)
    status, output = run("test", "--config=closed.toml")
    assert (status, HEADER in output, "triton.header_files" in output) == (2, True, True)
    assert run("test", "--config=open.toml")[0] == 0
    assert run("record", "embedder", "--config=closed.toml")[0] == 2
    assert run("record", "embedder", "--config=open.toml")[0] == 0
    assert run("test", "canary.toml")[0] == 2
    monkeypatch.setenv("TRITON_SIDECAR_TRITON__HEADERS", f'{{"{HEADER}": "hush"}}')
    assert run("test", "canary.toml")[0] == 0


@pytest.fixture
def over_tls(tmp_path: Path) -> Iterator[TritonServer]:
    options = (
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={TLS / 'a.pem'}",
        f"--grpc-server-key={TLS / 'a.key'}",
    )
    with TritonServer.running(tmp_path, "embedder", options=options) as server:
        yield server


async def test_a_port_with_another_protocol_counts_as_alive(over_tls: TritonServer) -> None:
    for address, words in ((over_tls.grpc, "speaks TLS"), (over_tls.http, "speaks HTTP/1")):
        async with Triton(address) as client:
            with pytest.raises(NotAdmitted, match=words):
                await client.server_live(LONG)


async def test_a_port_that_closes_connections_has_no_recognized_protocol() -> None:
    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Triton(f"127.0.0.1:{port}") as client:
        with pytest.raises(Unavailable):
            await client.server_live(LONG)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, NotAdmitted),
        (grpc.StatusCode.PERMISSION_DENIED, NotAdmitted),
        (grpc.StatusCode.UNIMPLEMENTED, NotAdmitted),
        (grpc.StatusCode.INTERNAL, Rejected),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
    ],
)
async def test_a_proxy_that_rejects_requests_counts_as_alive(
    code: grpc.StatusCode, error: type[Exception]
) -> None:
    class Proxy(service_pb2_grpc.GRPCInferenceServiceServicer):
        async def ServerLive(self, request: Any, context: Any) -> None:
            await context.abort(code, "said so")

    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Proxy(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Triton(f"127.0.0.1:{port}") as client:
            with pytest.raises(error) as raised:
                await client.server_live(LONG)
            assert type(raised.value) is error
    finally:
        await server.stop(None)
