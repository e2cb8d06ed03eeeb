"""`triton-sidecar drill`: faults injected on purpose. Start reading at `commands.py`."""
