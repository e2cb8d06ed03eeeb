"""The models of `triton_models` that misbehave when a drill orders it: their names.

MORTAL does so when a request orders it.

Acts: through what it imports or is given.
"""

from sidecar.local.demo_questions import FAULTY, FAULTY_STREAM

UNARY, STREAM, MORTAL = FAULTY, FAULTY_STREAM, "mortal"
