"""A real systemd as PID 1 of its own namespaces; it installs nothing and leaves nothing behind.

Start with `machine.py`; `events.py` has the rows of the table in docs/systemd.md.
"""
