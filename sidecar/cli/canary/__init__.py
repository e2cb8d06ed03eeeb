"""The verbs of `triton-sidecar canary`: record, test and list canaries.

It may import every room, as all of `cli`; the canaries themselves are in `health/canary`.
Start with `commands.py`; `record.py` asks a model and writes its canary.
"""
