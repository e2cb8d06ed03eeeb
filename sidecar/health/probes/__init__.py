"""The probes: loops that query one Triton, layer by layer, and report findings to the assessment.

Imports what health may import. Start reading at `prober.py`, which wires the probes together.
"""
