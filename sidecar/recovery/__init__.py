"""Recovery of an unhealthy Triton: restarts it, or loads its models, within a budget.

It may import the registry, models, health and the rooms below (the layers are in pyproject.toml).
Start with `decision.py`, which is pure; `loop.py` runs it, and `actions.py` has the restarts.
"""
