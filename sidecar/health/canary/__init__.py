"""Canaries: inferences with known answers, how they are derived and varied, and how answers count.

It may import what health may; `input_files.py` alone reads files, and `examine.py` alone sends
requests. Start with `definition.py`; `judge.py` decides which answers are wrong.
"""
