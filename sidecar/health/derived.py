"""The canary of a model that was given none, from its description and its first two answers."""

from sidecar.health.canary import Canary
from sidecar.health.derive import derive, repeatable
from sidecar.triton_api import Answer, ModelDescription


class DerivedCanary:
    """Remembers what was derived as long as the model describes itself the same."""

    def __init__(self) -> None:
        self._described: ModelDescription | None = None
        self._canary: Canary | str = ""
        self._first: Answer | None = None
        self._learnt = False

    def of(self, described: ModelDescription) -> Canary | str:
        """The canary for a description, or why there can be none."""
        if described != self._described:
            self._described, self._canary = described, derive(described)
            self._first, self._learnt = None, False
        return self._canary

    def learn(self, answer: Answer) -> None:
        """Take in an answer that passed; the second one may say more about what to expect."""
        if self._learnt or isinstance(self._canary, str):
            return
        if self._first is None:
            self._first = answer
            return
        self._canary = repeatable(self._canary, self._first, answer)
        self._learnt, self._first = True, None
