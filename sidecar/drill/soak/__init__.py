"""A soak: random faults for an hour, then what grew and what was left behind.

May import the rest of drill. Start reading at `session.py`, then `outcome.py`.
"""
