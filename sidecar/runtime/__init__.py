"""What all rooms share and Python lacks: a clock, `Latest` cells, errors, files, addresses.

It may import no other room, and no client of an outside system.
Start with latest.py, through which loops communicate, and errors.py, the tree of our errors.
"""
