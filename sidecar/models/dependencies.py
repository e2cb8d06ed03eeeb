"""The steps and dependencies of served models, as Triton describes them."""

from collections.abc import Iterable, Mapping, Sequence

from sidecar.triton.api import ModelDescription, TritonApi

_REQUEST = 5.0  # seconds


async def described(
    triton: TritonApi, models: Iterable[ModelDescription], depends_on: Mapping[str, Sequence[str]]
) -> tuple[ModelDescription, ...]:
    """These models with the steps of ensembles and all dependencies, recursively.

    Raises:
        SidecarError: one of them cannot be described.
    """
    found = {each.name: each for each in models}
    wanted = [name for each in found.values() for name in _needed(each, depends_on)]
    while wanted:
        if (name := wanted.pop()) not in found:
            found[name] = await triton.describe(name, _REQUEST)
            wanted += _needed(found[name], depends_on)
    return tuple(found[name] for name in sorted(found))


def _needed(model: ModelDescription, depends_on: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    return (*model.steps, *depends_on.get(model.name, ()))
