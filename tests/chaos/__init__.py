"""Fault injection in whole meshes and clusters under load, with a count of failed requests.

The tests use `tests.support.mesh`, `tests.support.cluster` and `tests.support.faults`. Start with
`test_mesh_faults.py`: one row for each fault.
"""
