"""Logs and Prometheus metrics of a sidecar, as hooks on events.

It may import the rooms below it, such as `events`, but not `election` or `recovery` next to it.
Start with logs.py and metrics.py, from which docs/logs.md and docs/metrics.md are generated.

Acts throughout.
"""
