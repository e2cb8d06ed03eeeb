"""The control plane: turns Consul's catalog into Envoy's configuration, and serves it over ADS.

It may import every room below `xds` in pyproject.toml, which has its own layers too; `app.py` alone
reads settings. Start with `app.py` for the wiring, or with `publication.py`, which makes a snapshot
from a catalog.
"""
