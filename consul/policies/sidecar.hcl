# Permissions of `triton-sidecar run`, for the service "triton". One token for each sidecar, so that one
# can be revoked; the same policy for all.

# Register, update, check and deregister its instance; write includes read, with which it sees the
# others. Consul cannot limit this to one instance of a service.
service "triton" {
  policy = "write"
}

# Find the control planes that report how far Envoy has followed a withdrawal. Without this permission, and the one on all
# nodes below, an empty list proves nothing, and each drain runs into its timeout.
service "triton-sidecar-xds" {
  policy = "read"
}

# Without it the health endpoint silently omits every instance: an entry is visible only to a token that may
# read both its service and its node.
node_prefix "" {
  policy = "read"
}

# Create, renew and destroy the session that holds the role of primary. Sessions belong to a node, so
# this can be narrowed if the names of the GPU nodes share a prefix.
session_prefix "" {
  policy = "write"
}

# Take, watch and release the lock, write the epoch, give and answer orders.
key_prefix "triton-sidecar/triton/election/" {
  policy = "write"
}

# The history of primaries: written by each instance that takes the role.
key_prefix "triton-sidecar/triton/history/" {
  policy = "write"
}

# Drills that are ordered of it; without this rule none can be.
key_prefix "triton-sidecar/triton/drill/" {
  policy = "read"
}

# Its answers to them.
key_prefix "triton-sidecar/triton/drill/answer/" {
  policy = "write"
}
