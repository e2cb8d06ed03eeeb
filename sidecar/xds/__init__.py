"""The control plane: turns Consul's catalog into Envoy's configuration, and serves it over ADS.

May import every room below `xds` in pyproject.toml; `app.py` alone reads settings. Its own layers,
from the top: app, server, api, envoys and quarantine and releases, publication, ads, config,
catalog. Start with `app.py` for the wiring, or `publication.py` for the way from a catalog to a
snapshot.
"""
