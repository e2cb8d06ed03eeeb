# Permissions of `triton-sidecar drill run --live` and `drill all --live`, for the service "triton". The token orders faults that
# the sidecars permit (`drill.allow`), and switchovers; it can neither take the role nor register anything.

service "triton" {
  policy = "read"
}

# The control planes report when all Envoys have followed, and which requests failed.
service "triton-sidecar-xds" {
  policy = "read"
}

# Entries are visible only to a token that may read both the service and the node.
node_prefix "" {
  policy = "read"
}

# The primary, pending orders, whether automation is paused, and the sidecars' answers.
key_prefix "triton-sidecar/triton/" {
  policy = "read"
}

# The lock on drills, with the order to the victim's sidecar.
key "triton-sidecar/triton/drill/order" {
  policy = "write"
}

# The scenario `switchover` writes an order, as an operator does. Without this permission and the next one only that fails.
key "triton-sidecar/triton/election/order" {
  policy = "write"
}

# The outcome of an order that is withdrawn, because the drill was ended.
key "triton-sidecar/triton/election/outcome" {
  policy = "write"
}

# The last drill, for the alert.
key "triton-sidecar/triton/drill/last" {
  policy = "write"
}

# A drill is announced in the history.
key_prefix "triton-sidecar/triton/history/" {
  policy = "write"
}

# The session that holds the lock. Sessions belong to a node: the name of the one with the drill would do.
session_prefix "" {
  policy = "write"
}
