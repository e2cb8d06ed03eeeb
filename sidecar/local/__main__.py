"""`python -m sidecar.local`: the verbs of `triton-sidecar local`, for `--detach` to start."""

from sidecar.cli import output
from sidecar.cli.local import app

with output.kept():
    app(prog_name="triton-sidecar local")
