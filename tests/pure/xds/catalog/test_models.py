"""Which names are known, which models answer, and under which an instance is listed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.traffic.policy import DEFAULTS, ModelRule, RoutingMode
from sidecar.xds.catalog.catalog import Health, Instance, ServiceCatalog
from sidecar.xds.catalog.models import ModelRoute, listed_models, model_table

BROKEN = (("chat", "CANARY_FAILED"),)
A = Instance("a", "10.0.0.1", 8001, 9001, models=("chat", "embed"))
B = Instance("b", "10.0.0.2", 8001, 9001, models=("chat",))
BY_MODEL = replace(DEFAULTS, routing=RoutingMode.BY_MODEL)
RULES = (
    ("both", ModelRule("large", ("chat",))),
    ("gone", ModelRule("gone")),
    ("talk", ModelRule("chat")),
)


def routes(
    *instances: Instance, routable: str = "ab", rules: tuple[tuple[str, ModelRule], ...] = ()
) -> dict[str, ModelRoute]:
    service = ServiceCatalog("s", instances, policy=replace(BY_MODEL, models=rules))
    return dict(model_table(service, set(routable)).routes)


def test_every_named_model_is_known() -> None:
    assert routes(A, B) == {"chat": ModelRoute(), "embed": ModelRoute()}


def test_an_alias_is_for_the_first_model_that_is_usable() -> None:
    found = routes(A, B, rules=RULES)
    assert found["talk"] == found["both"] == ModelRoute(to="chat")
    assert found["gone"] == ModelRoute(why="gone: no instance names it")
    large = replace(B, models=("chat", "large"))
    assert routes(A, large, rules=RULES)["both"] == ModelRoute(to="large")


@pytest.mark.parametrize(
    ("b", "state"),
    [
        (replace(B, unusable=BROKEN), "CANARY_FAILED"),
        (replace(B, draining=True), "DRAINING"),
        (replace(B, health=Health.CRITICAL), "CRITICAL"),
        (replace(B, silent=True), "SILENT"),
        (B, "STANDBY"),
    ],
)
def test_a_model_that_no_instance_may_serve_is_refused_with_the_reasons(
    b: Instance, state: str
) -> None:
    ill = replace(A, unusable=BROKEN)
    routable = "ab" if b.unusable else "a"
    found = routes(ill, b, routable=routable, rules=RULES)
    why = f"chat: a CANARY_FAILED, b {state}"
    assert found["chat"] == ModelRoute(why=why)
    assert found["both"].why.endswith(f"; {why}")
    assert found["embed"] == ModelRoute()


def test_nothing_is_refused_while_no_instance_may_get_requests() -> None:
    """Envoy itself answers then, or lets requests wait."""
    assert routes(A, B, routable="", rules=RULES)["both"] == ModelRoute(to="large")


@pytest.mark.parametrize("instances", [(), (replace(A, models=()),)])
def test_names_are_unknown_only_where_some_are_known(instances: tuple[Instance, ...]) -> None:
    service = ServiceCatalog("s", instances, policy=BY_MODEL)
    assert model_table(service, {"a"}).open
    known = ServiceCatalog("s", (A,), policy=BY_MODEL)
    assert not model_table(known, {"a"}).open
    assert model_table(replace(known, settled=False), {"a"}).open


def test_an_instance_is_listed_under_the_models_that_it_may_serve() -> None:
    ill = replace(A, unusable=BROKEN)
    assert listed_models((ill, B), {"a", "b"}) == (("a", ("embed",)), ("b", ("chat",)))


def test_a_model_that_no_instance_may_serve_stays_listed() -> None:
    """Its requests are refused by the route, which Envoy gets after the endpoints."""
    ill = replace(A, unusable=BROKEN)
    assert dict(listed_models((ill, B), {"a"}))["a"] == ("chat", "embed")


NAMES = ("x", "y", "z")
INSTANCES = st.builds(
    lambda name, models, bad: replace(
        A, id=name, models=models, unusable=tuple((model, "CANARY_FAILED") for model in bad)
    ),
    st.sampled_from("abcd"),
    st.lists(st.sampled_from(NAMES), unique=True).map(tuple),
    st.lists(st.sampled_from(NAMES), unique=True),
)


@given(
    instances=st.lists(INSTANCES, unique_by=lambda each: each.id).map(tuple),
    routable=st.sets(st.sampled_from("abcd")),
)
def test_every_request_that_passes_has_an_instance_that_may_serve_it(
    instances: tuple[Instance, ...], routable: set[str]
) -> None:
    there = routable & {each.id for each in instances}
    found = routes(*instances, routable="".join(sorted(there)))
    listed = dict(listed_models(instances, there))
    usable = {each.id: each.usable_models for each in instances}
    for model, route in found.items():
        those = {name for name in there if model in listed[name]}
        if not route.why and there:
            assert those
            assert all(model in usable[name] for name in those)
        else:
            assert not any(model in usable[name] for name in there)
