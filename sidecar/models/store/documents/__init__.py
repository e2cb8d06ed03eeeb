"""What is written in a store, and under which key: manifests, and names. Pure.

Start reading at `snapshot.py`, then at `layout.py`.
"""
