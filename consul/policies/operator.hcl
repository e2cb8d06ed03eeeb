# What a person needs for the operator's verbs of `triton-sidecar`, for the service "triton". It can
# order, and neither take the role nor register anything. Who may only look gets viewer.hcl.

service "triton" {
  policy = "read"
}

# The control planes tell when all Envoys have followed, and what failed meanwhile. Without this right, and that on all
# nodes below, a switchover cannot tell that there is none, and waits.
service "triton-sidecar-xds" {
  policy = "read"
}

# Entries are shown to a token that may read both the service and the node.
node_prefix "" {
  policy = "read"
}

# Who is primary and who was, whatever else the election has written down, and the traffic policy.
key_prefix "triton-sidecar/triton/" {
  policy = "read"
}

# `switchover` and `failover` write an order; `flush switchover` removes it.
key "triton-sidecar/triton/election/order" {
  policy = "write"
}

# What became of an order that was removed.
key "triton-sidecar/triton/election/outcome" {
  policy = "write"
}

# `pause` and `resume`.
key "triton-sidecar/triton/election/pause" {
  policy = "write"
}

# `policy set`, `promote`, `rollback` and `reset`.
key "triton-sidecar/triton/policy" {
  policy = "write"
}

# `failover --force` ends the session of a primary that does not let go of the role. Consul cannot
# limit this to one service's sessions; with "read" all but that works.
session_prefix "" {
  policy = "write"
}
