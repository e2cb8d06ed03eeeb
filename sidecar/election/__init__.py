"""The election of the primary: one lock per service in Consul's KV, held through a session.

It may import the registry, models, health and the rooms below (the layers are in pyproject.toml).
Start with `decision.py`, which decides; `loop.py` runs it, and `participant.py` wires the room.
"""
