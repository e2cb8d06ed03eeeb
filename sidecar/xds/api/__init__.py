"""What the control plane answers to sidecars and operators: sidecar.v1.ControlPlaneService.

May import every other part of `xds` but the server, the observer and the app.
Start with `control_plane_service.py`; `explain.py` gives the reasons for an instance's placement.
"""
