# Read-only access to the service "triton" for people and dashboards, for `triton-sidecar list`,
# `history`, `policy get` or Consul's web interface.

service "triton" {
  policy = "read"
}

service "triton-sidecar-xds" {
  policy = "read"
}

# Entries are visible only to a token that may read both the service and the node.
node_prefix "" {
  policy = "read"
}

# Current and former primaries, orders, whether automation is paused, and the traffic policy.
key_prefix "triton-sidecar/triton/" {
  policy = "read"
}

# Which checks the holder's session depends on, and which node it belongs to.
session_prefix "" {
  policy = "read"
}
