"""The client of NVIDIA GPUs: readings through NVML, or from Triton's metrics.

Imports runtime only; of its modules only `nvml.py` imports pynvml. Start reading at `api.py`, then
`client.py`.
"""
