"""The process of a load: `python -m sidecar.drill.load`, started by `process.py`.

Acts: asyncio, os.
"""

import asyncio
import os
import sys
from contextlib import suppress
from typing import BinaryIO

from sidecar.drill.load.canaries import fitted
from sidecar.drill.load.clients import Clients, Sent
from sidecar.drill.load.demo_models import demo_models
from sidecar.drill.load.messages import Order, Report, read_order, report_line
from sidecar.drill.load.questions import Questions, check_kinds
from sidecar.drill.load.spec import parse
from sidecar.runtime.errors import ConfigError, SidecarError

_REPORT = 0.1  # seconds between reports
_LINE = 1 << 26  # bytes of an order, which may have large canaries


async def main() -> int:
    """Read the order, send until the pipe is closed, report; returns the exit status."""
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=_LINE)
    # Not a thread that reads: the process would not end before the thread does.
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    order = read_order(await orders.readline())
    try:
        questions = await _questions(order)
        check_kinds(parse(order.spec), questions)
    except SidecarError as error:
        _tell(Report(error=str(error), mistaken=isinstance(error, ConfigError)))
        return 1
    await _send(order, questions, orders)
    return 0


async def _questions(order: Order) -> Questions:
    if order.canaries:
        return await fitted(order.canaries, order.reference)
    return await demo_models(order.reference, cached=order.cached)


async def _send(order: Order, questions: Questions, orders: asyncio.StreamReader) -> None:
    sent = Sent()
    clients = Clients(
        parse(order.spec),
        questions,
        order.address,
        began=order.began,
        seed=order.seed,
        sent=sent,
    )
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(_end(orders, clients))
        running = group.create_task(clients.run())
        while not running.done():
            _tell(Report(sent.samples, sent.counts))
            sent.samples.clear()
            await asyncio.wait((running,), timeout=_REPORT)
        ending.cancel()
    _tell(Report(sent.samples, sent.counts, ended=True))


async def _end(orders: asyncio.StreamReader, clients: Clients) -> None:
    """End the load when the pipe is closed, also because the drill has died."""
    await orders.read()
    clients.end()


def _tell(report: Report, to: BinaryIO = sys.stdout.buffer) -> None:
    to.write(report_line(report))
    to.flush()


if __name__ == "__main__":
    with suppress(OSError):  # a unit may forbid it
        os.nice(19)  # not what is measured: what is measured comes first
    status = 1
    with suppress(BrokenPipeError):  # the drill has died
        status = asyncio.run(main())
    sys.exit(status)
