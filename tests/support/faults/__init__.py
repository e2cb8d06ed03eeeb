"""The faults of the table in docs/health.md, as scenarios of drills, each with its verdict.

`faults.py` declares them, `stages.py` causes those that no drill causes, `outcome.py` runs one as a
drill and judges it.
"""
