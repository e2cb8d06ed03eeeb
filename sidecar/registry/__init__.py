"""The instance's registration in Consul: what is registered, what its checks say, how it withdraws.

It may import health, control_planes and the rooms below (the layers are in pyproject.toml).
Start with `registration.py`, which is pure; `publisher.py` keeps Consul in line with it.
"""
