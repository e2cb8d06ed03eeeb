"""Whether there are questions for each kind of client."""

from contextlib import AbstractAsyncContextManager

import pytest

from sidecar.drill.load.questions import Client, check_kinds
from sidecar.drill.load.spec import ClosedLoop, LoadSpec, OpenLoop
from sidecar.drill.samples import Kind
from sidecar.runtime.errors import ConfigError


class _Of:
    def __init__(self, *kinds: Kind) -> None:
        self.kinds = kinds

    def connect(self, address: str) -> AbstractAsyncContextManager[Client]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("spec", "kinds", "mistakes"),
    [
        (ClosedLoop(), ("unary", "stream"), 0),
        (ClosedLoop(streams=0), ("unary",), 0),
        (ClosedLoop(clients=0), ("stream",), 0),
        (ClosedLoop(), ("unary",), 1),
        (ClosedLoop(), ("stream",), 1),
        (OpenLoop(streams=0), ("unary",), 0),
        (OpenLoop(), ("stream",), 1),
        (OpenLoop(), (), 2),
    ],
)
def test_each_kind_of_client_needs_a_question(
    spec: LoadSpec, kinds: tuple[Kind, ...], mistakes: int
) -> None:
    if not mistakes:
        check_kinds(spec, _Of(*kinds))
        return
    with pytest.raises(ConfigError) as error:
        check_kinds(spec, _Of(*kinds))
    assert len(str(error.value).splitlines()) == mistakes
