"""Ends streams when the server stops.

Acts: asyncio.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any


async def until(closing: asyncio.Event, items: Any) -> AsyncIterator[Any]:
    """The items of an asynchronous iterable, ending early when `closing` is set."""
    closed = asyncio.ensure_future(closing.wait())
    iterator = aiter(items)
    item: asyncio.Future[Any] | None = None
    try:
        while not closing.is_set():
            item = asyncio.ensure_future(anext(iterator, None))
            await asyncio.wait((item, closed), return_when=asyncio.FIRST_COMPLETED)
            if not item.done() or item.result() is None:
                return
            yield item.result()
    finally:
        closed.cancel()
        if item is not None:
            item.cancel()
