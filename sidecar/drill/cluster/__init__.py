"""A cluster of hosts on one machine: network namespaces that can be cut off, and what runs in them.

May import drill's stage and load, and local. Start reading at `stage.py`, then `start.py`.
"""
