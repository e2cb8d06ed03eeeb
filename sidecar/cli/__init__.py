"""The command line: parses options, calls the other rooms, prints results, sets the exit status.

It is the top layer and may import every room; each verb imports what it needs when called.
Start with `main.py`; `exit_status.py` says how a verb ends.

Acts throughout.
"""
