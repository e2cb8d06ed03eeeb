"""The vocabulary of health: findings with their reasons, verdicts, and their line in Consul. Pure.

Imports the generated `v1` only; health produces the values, and every room above may read them.
Start reading at `evidence.py`, then `verdict.py`.
"""
