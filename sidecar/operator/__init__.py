"""The operator's verbs without the command line: orders, pauses, policies and inspection of a mesh.

It may import every room below `local` but no settings (the layers are in pyproject.toml).
Start with `operator_client.py`, which reads and writes Consul; `plans.py` decides what is refused.
"""
