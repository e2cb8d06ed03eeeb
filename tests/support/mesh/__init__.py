"""A real mesh on this machine: Consul, Tritons with sidecars, a control plane and Envoy.

Start with `mesh.py`; `plugin.py` has the fixture that the tests of a file share.
"""
