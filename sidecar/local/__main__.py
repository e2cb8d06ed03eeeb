"""`python -m sidecar.local`: the verbs of `triton-sidecar local`, for `--detach` to start."""

from sidecar.cli.local import app

app(prog_name="triton-sidecar local")
