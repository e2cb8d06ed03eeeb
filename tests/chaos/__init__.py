"""Fault injection in whole meshes and clusters under load, with a count of failed requests.

The tests use `tests.support.mesh`, `tests.support.faults` and `tests.support.drills`. Start with
`test_mesh_faults.py`: one row for each fault.
"""
