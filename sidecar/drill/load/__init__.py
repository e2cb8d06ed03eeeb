"""The load of a drill: open or closed loop, in a separate process, with every answer checked.

Start reading at `spec.py` (which load), `clients.py` (how it is sent) and `process.py` (where).
"""
