# Permissions for the operator's verbs of `triton-sidecar`, for the service "triton". The token can
# give orders, but neither take the role nor register anything. For read-only access use viewer.hcl.

service "triton" {
  policy = "read"
}

# The control planes report when all Envoys have followed, and which requests failed. Without this permission, and the one on
# all nodes below, a switchover cannot tell that there is no control plane, and waits.
service "triton-sidecar-xds" {
  policy = "read"
}

# Entries are visible only to a token that may read both the service and the node.
node_prefix "" {
  policy = "read"
}

# Current and former primaries, everything else that the election has written, and the traffic policy.
key_prefix "triton-sidecar/triton/" {
  policy = "read"
}

# `switchover` and `failover` write an order; `flush switchover` removes it.
key "triton-sidecar/triton/election/order" {
  policy = "write"
}

# The outcome of a removed order.
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

# `failover --force` ends the session of a primary that does not release the role. Consul cannot
# limit this to one service's sessions; with "read" everything except that works.
session_prefix "" {
  policy = "write"
}
