"""Envoy's configuration: from a catalog to a snapshot of clusters, endpoints, listener and routes.

May import `catalog` and the rooms below `xds`; all of it is pure.
Start with `snapshot.py`, which builds everything; `endpoints.py` decides priorities.
"""
