"""The operator's verbs: list, history, switchover, failover, flush, pause and resume.

It may import every room, as all of `cli`; the verbs are carried out by `operator`.
Start with `switchover.py`; `connect.py` finds the mesh and builds the client.
"""
