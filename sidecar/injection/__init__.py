"""Faults that are injected on purpose: what a sidecar does to its own instance, and their undoing.

It may import recovery, the election's keys and the rooms below. Start reading at `decision.py`
(when a sidecar injects a fault, or refuses); `guard.py` is the dead man's switch.
"""
