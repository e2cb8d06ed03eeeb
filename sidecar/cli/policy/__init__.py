"""The verbs of `triton-sidecar policy`, which read and edit a service's traffic policy.

It may import every room, as all of `cli`; the edits are made by `operator/policy_edit.py`.
Start with `commands.py`; `text_output.py` prints the answers.
"""
