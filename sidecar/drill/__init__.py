"""Drills: faults injected on purpose into a mesh under load, measured against objectives.

May import local, operator and what is below them. Start reading at `scenario.py` (what a drill is),
then `record.py` (what comes of it).
"""
