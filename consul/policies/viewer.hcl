# What a person or a dashboard may see of the service "triton", by `triton-sidecar list`,
# `history`, `policy get` or Consul's web interface. It can change nothing.

service "triton" {
  policy = "read"
}

service "triton-sidecar-xds" {
  policy = "read"
}

# Entries are shown to a token that may read both the service and the node.
node_prefix "" {
  policy = "read"
}

# Who is primary and who was, what is ordered, whether automation is paused, and the traffic policy.
key_prefix "triton-sidecar/triton/" {
  policy = "read"
}

# Which checks the holder's session depends on, and which node it belongs to.
session_prefix "" {
  policy = "read"
}
