"""The models of `triton_models` that misbehave when a drill orders it: their names."""

UNARY, STREAM = "faulty", "faulty_stream"
