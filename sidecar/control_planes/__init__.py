"""Clients of the control planes: how sidecars and operators find them, follow them and query them.

May import `consul`, `lifecycle`, `runtime` and the generated `v1`, but nothing of `xds`.
Start with `rpc.py`, which has one function per question.
"""
