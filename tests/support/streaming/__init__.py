"""A proxy that makes Consul 1.8 stream the health of services, as 1.10 and later do.

Start with `program.py`, which tests run in place of Consul.
"""
