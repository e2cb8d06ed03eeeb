"""What tests of the control plane share: an in-memory catalog, and rigs with a real Envoy.

`catalog_scene.py` and `ads_client.py` do no I/O. With a real Envoy, start with `xds_rig.py`; its
parts are in `control_plane.py`, `envoy_process.py`, `fake_tritons.py` and `grpc_clients.py`.
"""
