"""The models of `triton_models` that misbehave when a drill orders it: their names.

Acts: through what it imports or is given.
"""

from sidecar.local.demo_questions import FAULTY

UNARY, STREAM = FAULTY, "faulty_stream"
