"""`triton-sidecar model`: snapshots of models, and the stores that have them.

Start reading at `commands.py`.
"""
