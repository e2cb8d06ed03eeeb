"""The tests: `pure`, `contract`, `integration` and `chaos`, `checks` of files, and `support`.

They mirror `sidecar/`; CONTRIBUTING.md says what belongs where. Start with `room.py`, which finds
the tests of a room.
"""
