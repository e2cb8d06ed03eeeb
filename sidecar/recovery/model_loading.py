"""Loads served models that Triton's repository index shows as not loaded.

Acts: through what it imports or is given.
"""

from collections.abc import Callable, Iterable, Sequence

from sidecar.recovery.decision import Loadable
from sidecar.runtime.errors import Disabled, NotAdmitted, Rejected, SidecarError
from sidecar.triton.api import IndexEntry, TritonApi

_REQUEST = 5.0  # seconds
_READY, _MOVING = "READY", frozenset({"LOADING", "UNLOADING"})


class ServedModels:
    """The models that an instance serves, in loading order.

    A Triton that is not in explicit mode loads none on demand; once it has answered so, none counts
    as loadable until `forget`.
    """

    def __init__(self, triton: TritonApi, models: Sequence[str]) -> None:
        self._triton = triton
        self._models = tuple(models)
        self._disabled = False

    def forget(self) -> None:
        """Assume again that Triton loads models on demand, as it may after a restart."""
        self._disabled = False

    async def look(self) -> Loadable:
        """Read which of them could be loaded."""
        try:
            found = state(await self._triton.repository_index(_REQUEST), self._models)
        except NotAdmitted:
            return Loadable()  # a load would not be admitted either, so only a restart is left
        except SidecarError as error:
            return Loadable(unknown=str(error))
        if self._disabled:
            return Loadable(loading=found.loading, disabled=True)
        return found

    async def load(self, models: Iterable[str], timeout: float, wanted: Callable[[], bool]) -> None:
        """Load models one after the other while `wanted()`; `timeout` is for each, in seconds.

        Raises:
            Disabled: Triton loads none on demand.
            SidecarError: some could not be loaded; the others were tried nevertheless.
        """
        failed = []
        for model in models:
            if not wanted():
                break
            try:
                await self._triton.load_model(model, timeout)
            except Disabled:
                self._disabled = True
                raise
            except SidecarError as error:
                failed.append(f"{model}: {error}")
        if failed:
            raise Rejected("; ".join(failed))


def state(index: Iterable[IndexEntry], models: Sequence[str]) -> Loadable:
    """Which models are not loaded according to an index, and which are loading; pure.

    A model that is missing in the index is not loaded either: loading it shows whether it has
    files.
    """
    states: dict[str, set[str]] = {}
    for entry in index:
        states.setdefault(entry.name, set()).add(entry.state)
    loading = tuple(each for each in models if states.get(each, set()) & _MOVING)
    there = {name for name, found in states.items() if _READY in found}
    unloaded = tuple(each for each in models if each not in there and each not in loading)
    return Loadable(unloaded, loading)
