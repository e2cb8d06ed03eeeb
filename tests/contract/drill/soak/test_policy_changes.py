"""Changes of the policy during faults, with a command that is a stand-in."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.injections import operations
from sidecar.drill.scenarios import catalog
from sidecar.drill.soak import policy_changes
from sidecar.drill.soak.policy_changes import PolicyChanges
from sidecar.runtime.errors import Rejected

[CRASH, BAD_POLICY] = catalog.select(["crash", "bad-policy"])


@dataclass
class Stage:
    folder: Path


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The policies that were set; the command fails while the first of them is ""."""
    found: list[str] = []

    async def command(stage: object, *arguments: str) -> str:
        if found == [""]:
            found.clear()
            raise Rejected("no leader")
        assert arguments[:2] == ("policy", "set")
        found.append(Path(arguments[2]).name)
        return ""

    monkeypatch.setattr(operations, "command", command)
    for name in ("_EARLIEST", "_LATEST", "_AGAIN"):
        monkeypatch.setattr(policy_changes, name, 0.0)
    return found


def changes(folder: Path, seed: int = 7) -> PolicyChanges:
    return PolicyChanges(cast("ClusterStage", Stage(folder)), seed)


async def played(made: PolicyChanges, scenario: Any, count: int) -> None:
    for number in range(count):
        async with made.during(scenario, number):
            for _ in range(5):
                await asyncio.sleep(0)


async def test_a_random_half_of_the_faults_has_a_change_the_same_for_a_seed(
    tmp_path: Path, orders: list[str]
) -> None:
    made = changes(tmp_path)
    await played(made, CRASH, 40)
    first = orders.copy()
    assert made.due == made.made == len(first)
    assert 10 < len(first) < 30
    assert len(set(first)) == 4
    orders.clear()
    await played(changes(tmp_path), CRASH, 40)
    assert orders == first
    assert made.violations() == ()


async def test_a_bad_policy_stays(tmp_path: Path, orders: list[str]) -> None:
    made = changes(tmp_path)
    await played(made, BAD_POLICY, 20)
    assert (orders, made.due, made.violations()) == ([], 0, ())


async def test_a_change_that_fails_is_tried_again(tmp_path: Path, orders: list[str]) -> None:
    made = changes(tmp_path)
    orders.append("")
    while not made.due:
        await played(made, CRASH, 8)
    assert made.made
    assert made.failed == "no leader"


async def test_a_soak_in_which_every_change_failed_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orders: list[str]
) -> None:
    async def refused(stage: object, *arguments: str) -> str:
        raise Rejected("no permission")

    monkeypatch.setattr(operations, "command", refused)
    made = changes(tmp_path)
    await played(made, CRASH, 20)
    [violation] = made.violations()
    assert (violation.code, "no permission" in violation.found) == ("policies", True)


async def test_a_change_that_fails_for_another_reason_is_no_silent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orders: list[str]
) -> None:
    async def broken(stage: object, *arguments: str) -> str:
        raise FileNotFoundError("no such command")

    monkeypatch.setattr(operations, "command", broken)
    with pytest.raises(FileNotFoundError):
        await played(changes(tmp_path), CRASH, 20)
