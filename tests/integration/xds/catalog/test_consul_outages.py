"""A control plane with a Consul that is down, empty or denies access, and across its own restarts.

Consul, Envoy and the control plane are real, under load; the Tritons are not.
"""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import Status
from sidecar.consul.client import Consul
from sidecar.local.planning.acl import agent_config
from tests.support.consul_agent import ConsulAgent
from tests.support.soak import soak, times
from tests.support.xds.control_plane import SERVICE
from tests.support.xds.control_plane_rig import (
    POLICY,
    ROOT,
    UNHURRIED,
    ControlPlaneRig,
    registration,
)
from tests.support.xds.waiting import eventually

pytestmark = pytest.mark.integration

# The tests run on an agent that queries the servers, and on one that streams. Where both take the
# same path, only `make test-soak` runs one of them.
mostly_plain = pytest.mark.parametrize(
    "streamed", [pytest.param(False, id="plain"), pytest.param(True, id="streamed", marks=soak)]
)
mostly_streamed = pytest.mark.parametrize(
    "streamed", [pytest.param(False, id="plain", marks=soak), pytest.param(True, id="streamed")]
)


@mostly_streamed
async def test_a_start_without_consul_serves_the_cached_catalog_and_health_checks_apply(
    tmp_path: Path, streamed: bool
) -> None:
    async with ControlPlaneRig.running(tmp_path, streamed=streamed) as calm:
        await eventually(calm.kept, "the catalog on the disk")
        await calm.plane.stop()
        calm.agent.stop()
        await calm.plane.start()
        # Envoy restarts as well, so it has only the resources of this control plane.
        await calm.fresh_envoy()
        assert await calm.plane.metric("stale") == 1
        assert (await calm.plane.status()).startswith("catalog ")
        assert calm.plane.logged("cached_catalog_published")
        async with calm.under_load() as load:
            calm.tritons["a"].serving = False
            await eventually(lambda: calm.has_healthy(1), "Envoy's own check notices")
            await load.more(100, by="b")
            calm.tritons["a"].serving = True
            await eventually(lambda: calm.has_healthy(2), "a is healthy again")
            # A restarted development agent has lost all data: the catalog is empty.
            await asyncio.to_thread(calm.agent.start)
            await eventually(lambda: _is(calm, "stale", 0), "Consul is followed again")
            assert not await calm.plane.status()
            await eventually(lambda: _is(calm, "held_evictions", 2), "both are retained")
            await load.more(200)
            assert await calm.hosts() == 2
        assert load.failures == []


async def test_a_restart_changes_nothing_in_envoy(tmp_path: Path) -> None:
    stats = [
        f"cluster.{SERVICE}.membership_change",
        "cluster_manager.cluster_added",
        "cluster_manager.cluster_modified",
        "listener_manager.listener_modified",
        "listener_manager.total_listeners_draining",
    ]
    async with ControlPlaneRig.running(tmp_path) as calm, calm.under_load() as load:
        await eventually(calm.kept, "the catalog on the disk")
        before = [await calm.envoy.stat(name) for name in stats]
        for _ in range(times(1, soaking=2)):
            await calm.plane.stop()
            await calm.plane.start()
            await eventually(lambda: _is(calm, "envoys", 1), "Envoy is back")
            await eventually(lambda: _is(calm, "stale", 0), "Consul has confirmed it")
            await load.more(100)
        after = [await calm.envoy.stat(name) for name in stats]
        assert after == before
        assert await calm.has_healthy(2)
    assert load.failures == []


@mostly_streamed
async def test_instances_that_serve_are_retained_without_their_entries(
    tmp_path: Path, streamed: bool
) -> None:
    running = ControlPlaneRig.running(tmp_path, streamed=streamed)
    async with running as calm, calm.under_load() as load:
        for name in "ab":
            await calm.consul.deregister_service(name)
        await eventually(
            lambda: _retained(calm, "serving", ["a", "b"]), "both are retained as serving"
        )
        await load.more(200)
        assert await calm.hosts() == 2
        # A NOT_SERVING takes effect as soon as a consistent read confirms that the entry is gone.
        calm.tritons["a"].serving = False
        await eventually(lambda: _hosts(calm, 1), "a is gone")
        await load.more(100, by="b")
        await calm.consul.register_service(registration(calm.tritons["a"]))
        calm.tritons["a"].serving = True
        await calm.consul.update_check("a:verdict", "passing", "fine")
        await eventually(lambda: calm.has_healthy(2), "a is back")
    assert load.failures == []


async def test_a_token_without_read_access_changes_nothing(tmp_path: Path) -> None:
    management = str(uuid.uuid4())
    acl = agent_config(management)["acl"]
    assert isinstance(acl, dict)
    settings: dict[str, Any] = {"acl": acl | {"default_policy": "allow"}}
    async with ControlPlaneRig.running(tmp_path, {"mode": "active-active"}, **settings) as calm:
        async with calm.under_load() as load:
            await load.more(50, by="a")
            await load.more(50, by="b")
            rules = 'service_prefix "" { policy = "deny" }\nkey_prefix "" { policy = "deny" }'
            await calm.put("acl/policy", {"Name": "blind", "Rules": rules}, management)
            token = {"Policies": [{"Name": "blind"}]}
            blind = json.loads(await calm.put("acl/token", token, management))["SecretID"]
            calm.plane.token.write_text(blind)
            same = {**UNHURRIED, "mode": "active-active", "locality": {}}
            await calm.put(f"kv/{POLICY}", same, management)
            statuses: cycle[Status] = cycle(("warning", "passing"))

            async def retained() -> bool:
                # A change wakes the watches.
                await calm.consul.update_check("b:verdict", next(statuses), "busy")
                return await _is(calm, "held_evictions", 2)

            await eventually(retained, "both are retained despite an empty catalog")
            await load.more(50, by="a")
            await load.more(50, by="b")
            calm.plane.token.write_text("anonymous")
            await calm.put(f"kv/{POLICY}", UNHURRIED, management)
            await eventually(lambda: _is(calm, "held_evictions", 0), "all is seen again")
        assert load.failures == []


async def test_an_invalid_policy_is_reported_and_changes_nothing(tmp_path: Path) -> None:
    async with ControlPlaneRig.running(tmp_path, {"mode": "active-active"}) as calm:
        async with calm.under_load() as load:
            await calm.put(f"kv/{POLICY}", {"mode": "lenient"})
            await eventually(lambda: _is(calm, "policy_refused", 1), "the alert")
            await load.more(50, by="a")
            await load.more(50, by="b")
        assert load.failures == []
        [line] = calm.plane.logged("policy_rejected")
        assert "mode: expected" in line["why"]


@pytest.mark.parametrize("fault", ["corrupt", pytest.param("unwritable", marks=soak)])
async def test_an_unusable_state_file_is_reported_and_stops_nothing(
    tmp_path: Path, fault: str
) -> None:
    async with ControlPlaneRig.running(tmp_path) as calm, calm.under_load() as load:
        await eventually(calm.kept, "the catalog on the disk")
        await calm.plane.stop()
        state = calm.plane.state
        if fault == "corrupt":
            state.write_bytes(state.read_bytes()[:-9])
        else:
            state.unlink()
            state.mkdir()  # a folder instead of a file
        await calm.plane.start()
        await eventually(lambda: _is(calm, "envoys", 1), "Envoy is back")
        assert await calm.plane.metric("state_errors_total") >= 1
        assert calm.plane.logged("cached_catalog_rejected")
        if fault == "corrupt":
            await eventually(calm.kept, "a new file")
            assert state.with_name("state.corrupt").exists()
        await load.more(100)
    assert load.failures == []


@mostly_plain
async def test_another_datacenter_takes_over_when_no_local_instance_is_left(
    tmp_path: Path, streamed: bool
) -> None:
    folder = tmp_path / "dc2"
    folder.mkdir()
    policy = {"mode": "active-active", "locality": {"datacenters": ["dc2"]}}
    async with ControlPlaneRig.running(tmp_path, policy, streamed=streamed) as calm:
        with ConsulAgent.running(
            folder, datacenter="dc2", retry_join_wan=[calm.agent.wan]
        ) as other:
            async with Consul(ConsulAccess(address=f"http://{other.http}")) as there:
                await calm.join(there, "c")
                await eventually(lambda: calm.has_healthy(3), "three hosts")
                async with calm.under_load() as load:
                    await load.more(50, by="b")
                    assert load.answers["c"] == 0
                    for name in "ab":
                        await calm.consul.maintain_service(name, "away")
                    await load.more(50, by="c")
                    # The other datacenter is unreachable: its instances are retained.
                    other.stop()
                    await calm.consul.maintain_service("a", None)
                    await load.more(50, by="a")
                    await calm.consul.maintain_service("a", "away")
                    await load.more(50, by="c")
                assert load.failures == []


async def _is(calm: ControlPlaneRig, metric: str, value: float) -> bool:
    return await calm.plane.metric(metric) == value


async def _hosts(calm: ControlPlaneRig, count: int) -> bool:
    return await calm.hosts() == count


async def _retained(calm: ControlPlaneRig, key: str, names: list[str]) -> bool:
    # A line has the newly retained instances: both may be in one line, or one in each of two.
    lines = calm.plane.logged("instances_held")
    return {name for line in lines for name in line[key]} >= set(names)


_WRITER = """
import asyncio, pathlib, sys
from sidecar.runtime.clock import SystemClock
from sidecar.xds.catalog.retention import Leadership
from sidecar.xds.catalog.catalog import Instance
from sidecar.xds.catalog.state_file import StateFile
from sidecar.xds.catalog.cached_state import CachedService, CachedState

class Printed:
    def state_read(self, path, age, services): print("read")
    def state_refused(self, path, why): print("refused", why)
    def state_written(self): print("written")
    def state_unwritten(self, path, why): print("unwritten", why)

def state(count):
    instances = tuple(Instance(f"i{n}", "10.0.0.1", 8001 + n, 9001) for n in range(count))
    return CachedState(("s",), {"s": CachedService(instances, {}, Leadership(), None)})

async def main(path):
    disk = StateFile(path, SystemClock(), Printed())
    await disk.write(state(2))
    await disk.write(state(1000))
    again = StateFile(path, SystemClock(), Printed()).read(("s",))
    print(len(again.kept["s"].instances), [each.name for each in path.parent.iterdir()])

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def test_a_full_disk_keeps_the_last_good_file(tmp_path: Path) -> None:
    # A separate mount namespace, so that nothing has to be unmounted afterwards.
    mount = f'mount -t tmpfs -o size=16k tmpfs "{tmp_path}" && exec "$0" -c "$1" "{tmp_path}/state"'
    argv = [
        "unshare",
        *(() if os.geteuid() == 0 else ("--user", "--map-root-user")),
        "--mount",
        "sh",
        "-c",
        mount,
        sys.executable,
        _WRITER,
    ]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    written, unwritten, read, left = done.stdout.splitlines()
    assert (written, read, left) == ("written", "read", "2 ['state']")
    assert "No space left" in unwritten
