"""The plan of a mesh: the ports, files, arguments and order of all its parts.

It may import what `local` may; of `local/processes` only the mark of processes.
Start with plan.py, the values; layout.py builds a plan from options and ports.
"""
