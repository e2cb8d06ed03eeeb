"""The election's keys in Consul's KV, and what their values mean: lock, epoch, orders and history.

It is pure, and imports only `consul.api`, pydantic and the standard library.
Start with `lock.py`; `orders.py` reads all keys into one `ElectionState`.
"""
