"""The tables of log lines and metrics in docs/, as generated from the code."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from docs.generate import Mistake, calls, logs, metrics

TWO_PLACES = """
log.info("stopped", step=step)
self._log.warning("stopped", step=step, error=error)
print("no event")
"""


def test_an_event_has_the_fields_and_levels_of_all_its_calls() -> None:
    page = logs(calls("sidecar/a.py", TWO_PLACES), {"stopped": "It ended."})
    assert "| `stopped` | info, warning | `step`, `error` | It ended. |" in page


@pytest.mark.parametrize(
    "source",
    [
        'log.info("the catalog is frozen")',
        'log.info("Frozen")',
        "log.info(said)",
        'self._log.error(f"recovery: {outcome}")',
        'log.info("frozen", **fields)',
    ],
)
def test_a_name_that_is_not_a_literal_is_a_mistake(source: str) -> None:
    with pytest.raises(Mistake, match=r"sidecar/a\.py:1"):
        list(calls("sidecar/a.py", source))


@pytest.mark.parametrize("described", [{}, {"stopped": "", "gone": ""}])
def test_each_event_is_described_and_nothing_else(described: dict[str, str]) -> None:
    with pytest.raises(Mistake, match=r"stopped|gone"):
        logs(calls("sidecar/a.py", TWO_PLACES), described)


def test_a_metric_has_the_name_and_labels_of_its_declaration() -> None:
    registry = CollectorRegistry()
    Counter("runs", "Runs of hooks.", ("hook", "result"), registry=registry)
    Gauge("envoys", "Envoys connected.", registry=registry)
    page = metrics({"Here": registry})
    assert "| `runs_total` | counter | `hook`, `result` | Runs of hooks. |" in page
    assert "| `envoys` | gauge | | Envoys connected. |" in page
