"""Other models of the same Triton that can hold up a canary. Pure.

An ensemble shares its steps with other callers, and Triton's rate limiter makes a model wait until
other models release a resource. The model itself then makes no progress, but does not hang.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sidecar.triton.api import ModelDescription

_MIXED = 3  # more stall windows for an ensemble with some busy steps and some idle ones


@dataclass(frozen=True, slots=True)
class HeldUp:
    """How many seconds beyond a stall other models may hold up a canary, and why."""

    seconds: float = 0.0
    why: str = ""


NOT_HELD = HeldUp()


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another loaded model, and when it last made progress; None for never.

    `moved` is the time of its last progress, `busy` of its last progress for other clients.
    """

    described: ModelDescription
    moved: float | None = None
    busy: float | None = None


def has_neighbours(described: ModelDescription) -> bool:
    """Whether a model can wait for others at all."""
    return bool(described.steps or described.resources)


def held(
    described: ModelDescription,
    neighbours: Mapping[str, Neighbour],
    since: float,
    stall: float,
    refused: bool,
) -> HeldUp:
    """For how long other models may hold up a canary that is late or was refused.

    Args:
        described: the canary's model.
        neighbours: all other models that are loaded and described, by name.
        since: the time one stall window ago.
        stall: seconds without progress after which a model is hung.
        refused: whether it was refused for load, that is by a step with a bounded queue.
    """
    steps = {name: neighbours.get(name) for name in _leaves(described, neighbours)}
    known = [each for each in steps.values() if each is not None]
    resources = {
        *described.resources,
        *(name for each in known for name in each.described.resources),
    }
    for name, each in neighbours.items():
        shares = name not in steps and not resources.isdisjoint(each.described.resources)
        if shares and _after(each.busy, since):
            return HeldUp(
                float("inf"), "it waits for a resource, and other models that share it finish"
            )
    refusing = [each for each in known if each.described.refuses] if refused else []
    relevant = refusing or known
    if not any(_after(each.busy, since) for each in relevant):
        return NOT_HELD
    sure = len(known) == len(steps) and all(_after(each.moved, since) for each in relevant)
    return HeldUp(float("inf") if sure else _MIXED * stall, "its steps finish for other models")


def _leaves(described: ModelDescription, neighbours: Mapping[str, Neighbour]) -> Iterator[str]:
    """The models at the end of an ensemble's steps: those that are not ensembles themselves."""
    found, wanted = {described.name}, list(described.steps)
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found.add(name)
        each = neighbours.get(name)
        if each is not None and each.described.steps:
            wanted += each.described.steps
        else:
            yield name


def _after(when: float | None, since: float) -> bool:
    return when is not None and when > since
