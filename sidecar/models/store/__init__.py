"""The model store: snapshots of model folders, each verified, named, and stored once.

A snapshot is a manifest that lists files by digest; a blob is the content of a file, under its
SHA-256. Imports models, triton and runtime. Start reading at `documents/snapshot.py`, then at
`push.py` and `pull.py`; `retention.py` says what may be removed.
"""
