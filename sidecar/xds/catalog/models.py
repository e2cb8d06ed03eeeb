"""Which models answer a request, and which instances serve them (decision 69). Pure."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from sidecar.traffic.policy import ModelRule
from sidecar.xds.catalog.catalog import Health, Instance, ServiceCatalog

ModelsById = tuple[tuple[str, tuple[str, ...]], ...]
"""Models by instance id, sorted."""

_LONGEST = 400  # characters of a reason


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """What happens to requests for a name.

    They are for the model `to`, or for the one of that name if it is empty; or they are refused,
    and `why`.
    """

    to: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class ModelTable:
    """The routes of all known names, sorted. Requests for other names pass only if it is `open`."""

    routes: tuple[tuple[str, ModelRoute], ...] = ()
    open: bool = False


def listed_models(instances: Iterable[Instance], routable: Collection[str]) -> ModelsById:
    """The models under which Envoy lists each instance.

    Those that it may serve. A model that no routable instance may serve stays listed everywhere:
    its requests are refused before they need an instance, and until Envoy knows that, nothing
    changes for them.

    Args:
        instances: of a service.
        routable: ids of those that may get new requests.
    """
    found = tuple(instances)
    good = _good(found, routable)
    return tuple(
        (
            each.id,
            tuple(
                model
                for model in sorted(each.models)
                if model not in dict(each.unusable) or model not in good
            ),
        )
        for each in found
    )


def model_table(service: ServiceCatalog, routable: Collection[str]) -> ModelTable:
    """What happens to requests, by the name of a model in them.

    It is open while too little is known: what an Envoy is told then must not make a model unknown.

    Args:
        service: the instances and the policy.
        routable: ids of those that may get new requests.
    """
    instances, rules = service.instances, dict(service.policy.models)
    known = {model for each in instances for model in each.models}
    good = _good(instances, routable)
    certain = service.settled and bool(routable)

    def route(name: str) -> ModelRoute:
        rule = rules.get(name, ModelRule())
        chain = (rule.to or name, *rule.fallback)
        to = next((model for model in chain if model in good), "")
        if not to and certain:
            return ModelRoute(why="; ".join(_why(model, instances) for model in chain)[:_LONGEST])
        to = to or chain[0]
        return ModelRoute("" if to == name else to)

    names = sorted(known | rules.keys())
    return ModelTable(
        tuple((name, route(name)) for name in names), open=not (service.settled and known)
    )


def _good(instances: Iterable[Instance], routable: Collection[str]) -> frozenset[str]:
    """The models that at least one routable instance may serve."""
    serving = (each for each in instances if each.id in routable)
    return frozenset(model for each in serving for model in each.usable_models)


def _why(model: str, instances: Iterable[Instance]) -> str:
    """Why no instance serves a model, as codes by instance."""
    states = [f"{each.id} {state}" for each in instances for state in _states(model, each)]
    return f"{model}: {', '.join(states) or 'no instance names it'}"


def _states(model: str, instance: Instance) -> Iterator[str]:
    if model not in instance.models:
        return
    if instance.draining:
        yield "DRAINING"
    elif instance.health is Health.CRITICAL:
        yield "CRITICAL"
    elif reason := dict(instance.unusable).get(model):
        yield reason
    else:
        yield "SILENT" if instance.silent else "STANDBY"
