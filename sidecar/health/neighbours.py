"""Whom a canary may wait for beside its own model. Pure.

An ensemble works by its steps, which others may ask as well; Triton's rate limiter has a model wait
until others give back what it needs. Then nothing of the model itself moves, and it does not hang.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sidecar.triton.api import ModelDescription

_DOUBT = 3  # more stall windows for an ensemble of which some steps are busy, and some do nothing


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Seconds beyond a stall for which others may hold what a canary waits for, and why."""

    seconds: float = 0.0
    why: str = ""


NOT_HELD = HeldUp()


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A model that is loaded beside another one, and when it did something; None for never.

    `moved` is when any work of it was seen last, `busy` when work was that is not ours.
    """

    described: ModelDescription
    moved: float | None = None
    busy: float | None = None


def has_neighbours(described: ModelDescription) -> bool:
    """Whether a model may wait for others at all."""
    return bool(described.steps or described.resources)


def held(
    described: ModelDescription,
    neighbours: Mapping[str, Neighbour],
    since: float,
    stall: float,
    refused: bool,
) -> HeldUp:
    """For how long others may hold up a canary that is late or was refused.

    Args:
        described: the model that is asked.
        neighbours: all others that are loaded and known, by name.
        since: a moment one stall window ago.
        stall: seconds without any movement after which a model is hung.
        refused: whether it was refused for load, and so by a step with a bounded queue.
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
    asked = [each for each in known if each.described.refuses] if refused else known
    asked = asked or known
    if not any(_after(each.busy, since) for each in asked):
        return NOT_HELD
    sure = len(known) == len(steps) and all(_after(each.moved, since) for each in asked)
    return HeldUp(float("inf") if sure else _DOUBT * stall, "its steps finish for other models")


def _leaves(described: ModelDescription, neighbours: Mapping[str, Neighbour]) -> Iterator[str]:
    """The models that an ensemble asks in the end: those that are no ensembles themselves."""
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
