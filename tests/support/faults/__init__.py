"""The faults that tests stage on a real mesh, each with its load and its expected outcome.

`faults.py` declares them, `stages.py` causes and removes them, `fault_play.py` runs one under load.
"""
