"""What the control plane knows from Consul: instances, leaders and policies, and what it retains.

May import the rooms below `xds`, but no other part of it; `catalog.py` holds the values it yields.
Start with `retention.py` for what counts when Consul is wrong, `catalog_watch.py` for the loops.
"""
