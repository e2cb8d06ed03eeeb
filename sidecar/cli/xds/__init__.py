"""The verbs of `triton-sidecar xds`, which run the control plane or query running ones.

It may import every room, as all of `cli`; the queries are in `operator/inspection.py`.
Start with `commands.py`; `text_output.py` and `json_output.py` print the answers.
"""
