"""The health room: probes one Triton and its GPUs, and decides whether it may receive requests.

Imports events, verdict, triton, gpu and runtime only. Start reading at `decision.py`; the loops
that feed it are in `probes/prober.py`.
"""
