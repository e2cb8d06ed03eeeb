"""Clients of the control planes: how sidecars and operators find them, follow them and query them.

It may import events, verdict, consul and the rooms below, but nothing of `xds`.
Start with `rpc.py`, which has one function per question.
"""
