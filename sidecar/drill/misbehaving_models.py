"""The models of `triton_models` that misbehave when a drill orders it: their names.

CACHED is one whose answers Triton caches. MORTAL misbehaves when a request orders it.

Acts: through what it imports or is given.
"""

from sidecar.local import demo_questions

UNARY, CACHED = demo_questions.FAULTY, demo_questions.CACHED
STREAM, MORTAL = demo_questions.FAULTY_STREAM, "mortal"
