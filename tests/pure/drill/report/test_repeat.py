"""The command that repeats a drill."""

from dataclasses import replace

import pytest

from sidecar.drill.record import SOAK
from sidecar.drill.report import repeat
from tests.support.drill_records import ENVIRONMENT


@pytest.mark.parametrize(
    ("given", "everything", "one"),
    [
        (
            "triton-sidecar drill all --mesh 'my mesh'",
            "triton-sidecar drill all --mesh 'my mesh' --seed 7",
            "triton-sidecar drill run freeze --mesh 'my mesh' --seed 7",
        ),
        (
            "triton-sidecar drill run crash freeze --seed 1 --repeat 3",
            "triton-sidecar drill run crash freeze --repeat 3 --seed 7",
            "triton-sidecar drill run freeze --repeat 3 --seed 7",
        ),
        ("make demo --seed=3", "make demo --seed 7", "triton-sidecar drill run freeze --seed 7"),
    ],
)
def test_a_drill_is_repeated_with_its_seed(given: str, everything: str, one: str) -> None:
    environment = replace(ENVIRONMENT, command=given)
    assert repeat.everything(environment) == everything
    assert repeat.one(environment, "freeze") == one


def test_a_fault_of_a_soak_is_repeated_by_its_number() -> None:
    given = "triton-sidecar drill soak --minutes 60 --report=there --load rate=9 --start=2 --seed 1"
    environment = replace(ENVIRONMENT, command=given)
    assert repeat.one(environment, "freeze", 12) == (
        "triton-sidecar drill soak --load rate=9 --minutes 1 --start 12 --seed 7"
    )
    assert repeat.one(environment, SOAK, 12) == (
        "triton-sidecar drill soak --minutes 60 --load rate=9 --start=2 --seed 7"
    )
