"""Guards of releases: a release that does badly is rolled back here at once, then in Consul.

May import `config` and `catalog`; when a guard trips is decided in `sidecar/traffic/guard.py`.
Start with `release_watch.py`.
"""
