"""Tests without I/O: tables, Hypothesis, the model of Consul and a virtual clock.

`conftest.py` checks that no test here does any I/O.
"""
