"""Rigs for the control plane: in memory, and with a real Envoy and fake Tritons.

`catalog_scene.py` and `ads_client.py` do no I/O; start with `xds_rig.py` for the real Envoy.
"""
