"""The quarantine: tries requests that crashed two instances, and refuses those that do it again.

May import `publication`, `config`, `catalog` and `metrics`.
Start with `quarantine.py`; `suspects.py` decides without I/O, `trials.py` sends the requests.
"""
