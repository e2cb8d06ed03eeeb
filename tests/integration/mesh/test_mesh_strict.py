"""Strict mode: an instance that cannot confirm its claim serves nothing; hooks get the role."""

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from sidecar.local import consul_view
from sidecar.local.processes import part_probe
from sidecar.runtime.errors import Unavailable
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_nodes import apart, fail_node, maintain_node
from tests.support.mesh.mesh_outside import sidecar, until
from tests.support.soak import soak

pytestmark = pytest.mark.integration

# The hook writes to its instance's folder.
ENVIRONMENT = {
    "TRITON_SIDECAR_ELECTION__MODE": "strict",
    "TRITON_SIDECAR_HOOKS__ON_ROLE_CHANGE": '["/bin/sh", "-c", "cat >> hook; echo >> hook"]',
}


async def serving(mesh: LiveMesh) -> list[str]:
    """The instances that answer SERVING to health checks; those that do not answer are left out.

    Each is checked twice, since the role may move between two answers: instances that answer
    SERVING both times did so at the same time.
    """
    found = [instance.id for instance in mesh.now.instances]
    for instance in (*mesh.now.instances, *mesh.now.instances):
        if not await _is_serving(instance.sidecar.grpc) and instance.id in found:
            found.remove(instance.id)
    return found


async def _is_serving(address: str) -> bool:
    with suppress(Unavailable):
        return await part_probe.health(address) == "SERVING"
    return False


async def pass_all(mesh: LiveMesh) -> bool:
    async with consul_view.connect(mesh.now) as consul:
        seen = await consul_view.observe(consul)
    return [each.status for each in seen.values()] == ["passing"] * len(mesh.now.instances)


async def test_only_the_primary_serves_and_no_instance_without_consul(mesh: LiveMesh) -> None:
    first = await mesh.primary()
    await until(lambda: _serves(mesh, first), f"{first} alone serves")
    seen: list[list[str]] = []

    async def no_instance() -> bool:
        seen.append(await serving(mesh))
        return seen[-1] == []

    with mesh.frozen("consul"):
        await until(no_instance, "the claim has expired, and no instance serves")
    assert all(each in ([first], []) for each in seen)

    async def one_instance() -> bool:
        return len(await serving(mesh)) == 1

    await until(one_instance, "one instance serves again")


async def test_a_switchover_moves_the_serving_status_and_runs_the_hook(mesh: LiveMesh) -> None:
    first = await mesh.primary()
    await until(lambda: _serves(mesh, first), f"{first} serves")
    await until(lambda: pass_all(mesh), "all pass")
    done = sidecar("switchover", f"--mesh={mesh.folder}", "--timeout=30s")
    second = await mesh.primary()
    assert second != first, done.stdout + done.stderr
    await until(lambda: _serves(mesh, second), f"{second} alone serves")
    await until(lambda: _hook_ran(mesh, second), "a hook run for the new primary")


@pytest.mark.parametrize(
    "take_out", [pytest.param(maintain_node, marks=soak, id="maintain_node"), fail_node]
)
async def test_a_primary_whose_node_is_out_of_service_hands_over(
    mesh: LiveMesh, take_out: Callable[[LiveMesh, bool], Awaitable[None]]
) -> None:
    first, second = await mesh.primary(), await mesh.standby()
    seen: list[list[str]] = []

    async def succeeded() -> bool:
        seen.append(await serving(mesh))
        return seen[-1] == [second]

    async with apart(mesh, second):
        await until(lambda: pass_all(mesh), "all pass")
        assert await mesh.primary() == first
        await take_out(mesh, True)
        try:
            await until(succeeded, f"{second} alone serves")
            assert await mesh.primary() == second
            assert all(len(each) <= 1 for each in seen)  # one writer, or none
        finally:
            await take_out(mesh, False)
        await until(lambda: pass_all(mesh), "all pass again")
        assert await mesh.primary() == second


@pytest.mark.parametrize(("mode", "warned"), [("strict", False), ("active-active", True)])
async def test_a_policy_of_another_mode_gives_a_warning(
    mesh: LiveMesh, mode: str, warned: bool
) -> None:
    await until(lambda: pass_all(mesh), "all are registered")
    file = mesh.folder / "policy.yaml"
    file.write_text(f"mode: {mode}\n")
    done = sidecar("policy", "diff", str(file), f"--mesh={mesh.folder}", "--json", check=True)
    both = ", ".join(each.id for each in mesh.now.instances)
    assert [f": {both};" in each for each in json.loads(done.stdout)["doubts"]] == [True] * warned


def _hook_ran(mesh: LiveMesh, instance: str) -> bool:
    hook = mesh.folder / instance / "hook"
    lines = hook.read_text().splitlines() if hook.exists() else []
    changes = [json.loads(line) for line in lines if line]
    return [(each["before"], each["after"]) for each in changes][-1:] == [("standby", "primary")]


async def _serves(mesh: LiveMesh, instance: str) -> bool:
    return await serving(mesh) == [instance]
