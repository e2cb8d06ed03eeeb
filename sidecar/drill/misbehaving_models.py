"""The models of `triton_models` that misbehave when a drill orders it: their names."""

from sidecar.local.demo_questions import FAULTY

UNARY, STREAM = FAULTY, "faulty_stream"
