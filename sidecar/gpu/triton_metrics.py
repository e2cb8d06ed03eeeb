"""Reads GPUs from Triton's own metrics where NVML cannot be used: memory and utilization.

Source: Triton's user guide, "Metrics"; Triton leaves the `nv_gpu_*` metrics out without a GPU.

Acts: aiohttp, asyncio.
"""

import asyncio
import math
from collections import defaultdict

from sidecar.gpu.api import ALL, GpuReading, Selection
from sidecar.runtime.errors import AnswerTooLarge, DeadlineExceeded, Rejected, Unavailable, words

_MAX_BYTES = 4 * 2**20  # enough for some hundred models with all their metrics
_CHUNK = 2**16


class TritonMetrics:
    """The GPUs that one Triton uses, from its metrics endpoint.

    Args:
        address: `host:port` of Triton's metrics.
        selection: the GPUs that count; only by UUID, because Triton reports no index.
    """

    def __init__(self, address: str, selection: Selection = ALL) -> None:
        self._url = f"http://{address}/metrics"
        uuids = tuple(name for name in selection.names or () if not name.isdecimal())
        self._selection = Selection(uuids) if uuids else ALL

    async def read(self, timeout: float) -> tuple[GpuReading, ...]:
        """A reading of each GPU; empty without a GPU.

        Raises:
            DeadlineExceeded: there is no answer in time.
            Unavailable: there is no connection.
            Rejected: the answer is an error, or not metrics.
            AnswerTooLarge: the answer is larger than any Triton's metrics.
        """
        text = await self._fetch(timeout)
        readings = parse_gpu_metrics(text)
        return tuple(gpu for gpu in readings if self._selection.includes(-1, gpu.uuid))

    async def _fetch(self, timeout: float) -> str:
        import aiohttp

        body = bytearray()
        try:
            async with (
                asyncio.timeout(timeout),
                # Not decompressed: a small answer could become a large one.
                aiohttp.ClientSession(auto_decompress=False) as session,
                session.get(self._url, headers={"Accept-Encoding": "identity"}) as answer,
            ):
                if answer.status != 200:
                    raise Rejected(f"Triton's metrics: HTTP status {answer.status}")
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    body += chunk
                    if len(body) > _MAX_BYTES:
                        raise AnswerTooLarge("Triton's metrics: more than 4 MiB")
        except TimeoutError:
            raise DeadlineExceeded("Triton's metrics: no answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"Triton's metrics: {words(error)}") from None
        return body.decode(errors="replace")


def parse_gpu_metrics(text: str) -> tuple[GpuReading, ...]:
    """Readings of the GPUs in Triton's metrics, in the text format of Prometheus.

    Raises:
        Rejected: it is not in that format.
    """
    from prometheus_client.parser import text_string_to_metric_families

    # The parser is slow, and all but a few lines are about models.
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith("nv_gpu_"))
    gpus: defaultdict[str, dict[str, float]] = defaultdict(dict)
    try:
        for family in text_string_to_metric_families(lines):
            for sample in family.samples:
                uuid = sample.labels.get("gpu_uuid")
                if uuid and math.isfinite(sample.value):
                    gpus[uuid][sample.name] = sample.value
    except (ValueError, IndexError, KeyError) as error:
        raise Rejected(
            f"Triton's metrics: expected Prometheus' text format: {words(error)}"
        ) from None
    return tuple(_reading(uuid, values) for uuid, values in gpus.items())


def _reading(uuid: str, values: dict[str, float]) -> GpuReading:
    total, used = (values.get(f"nv_gpu_memory_{kind}_bytes") for kind in ("total", "used"))
    return GpuReading(
        uuid=uuid,
        source="triton",
        memory_total=None if total is None else int(total),
        memory_free=None if total is None or used is None else max(0, int(total - used)),
        utilization=values.get("nv_gpu_utilization"),
    )
