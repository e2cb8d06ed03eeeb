"""Drills on a live mesh: one at a time, only what the victim's settings permit, always announced.

The fault is caused and undone by the victim's own sidecar (`sidecar/injection/`); this side only
holds a lock in Consul. Start reading at `live.py`; `precheck.py` refuses, and is pure.
"""
