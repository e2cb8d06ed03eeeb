"""Tests that break whole meshes and clusters under load, and count the requests that fail.

They use `tests.support.mesh`, `tests.support.cluster` and `tests.support.faults`. Start with
`test_mesh_faults.py`: one row for each fault.
"""
