"""The instances in `local status`: roles, pause, and different model sets."""

from sidecar.consul.api import Lock, Set
from sidecar.election.keys import lock
from sidecar.election.keys.lock import Claim
from sidecar.local import consul_view
from sidecar.local.planning.plan import SERVICE
from sidecar.registry.registration import InstanceInfo, InstanceMeta, registration
from tests.support.consul_model import FakeConsul


def instance(name: str) -> InstanceInfo:
    return InstanceInfo(name, SERVICE, "127.0.0.1", 1, 1, (), (), ("m",), "127.0.0.1:2", "live")


async def take(consul: FakeConsul, name: str) -> None:
    session = await consul.session_create(name, ttl=15, lock_delay=0, service_checks=())
    claim = lock.dumps(Claim(name, session, "now"))
    taking = Lock(lock.lock_key(SERVICE), claim, session)
    await consul.transact(taking, Set(lock.epoch_key(SERVICE), claim))


async def test_roles_pause_and_another_model_set() -> None:
    consul = FakeConsul()
    for name, standing in (
        ("a", InstanceMeta(standby="cold")),
        ("b", InstanceMeta(paused="by jane@desk", differs="serves the model set x")),
    ):
        own = instance(name)
        await consul.register_service(registration(own, standing))
        for check in (own.verdict_check, own.sidecar_check):
            await consul.update_check(check, "passing", "PASSING OK")
    await consul.update_check("a:verdict", "critical", "COLD COLD: its models are not loaded")
    await take(consul, "a")
    seen = await consul_view.observe(consul)
    assert (seen["a"].status, seen["a"].role) == ("cold", "promoting")
    assert (seen["b"].role, seen["b"].paused) == ("standby", "by jane@desk")
    assert seen["b"].differs == "serves the model set x"
    await consul.update_check("a:verdict", "passing", "PASSING OK")
    assert (await consul_view.observe(consul))["a"].role == "primary"


async def test_a_check_that_has_not_run_yet_is_not_described() -> None:
    consul, own = FakeConsul(), instance("a")
    await consul.register_service(registration(own, InstanceMeta()))
    await consul.update_check(own.verdict_check, "critical", "STARTING NOT_PROVEN_YET: waits")
    seen = (await consul_view.observe(consul))["a"]
    reasons = {"Triton verdict: STARTING NOT_PROVEN_YET: waits", "Sidecar alive has not run yet"}
    assert set(seen.reason.split("; ")) == reasons


async def test_a_primary_that_is_taken_out_of_service_is_not_promoting() -> None:
    consul, own = FakeConsul(), instance("a")
    await consul.register_service(registration(own, InstanceMeta(role="primary")))
    for check in (own.verdict_check, own.sidecar_check):
        await consul.update_check(check, "passing", "PASSING OK")
    await take(consul, "a")
    await consul.maintain_node("new kernel")
    seen = (await consul_view.observe(consul))["a"]
    assert (seen.status, seen.role) == ("critical", "primary")
    assert seen.reason == "Node Maintenance Mode: new kernel"
