# Permissions of `triton-sidecar xds`, for the service "triton". Apart from its own entry it can change the
# traffic policy: it rolls back a failing release.

# Its own entry, through which draining sidecars find it.
service "triton-sidecar-xds" {
  policy = "write"
}

# The instances. Each additional service in `xds.services` needs its own rule.
service "triton" {
  policy = "read"
}

# Without it the health endpoint silently omits every instance: an entry is visible only to a token that may
# read both its service and its node.
node_prefix "" {
  policy = "read"
}

# Datacenters that a policy names (`locality.datacenters`) have to grant this token the same permissions: replicate ACL
# tokens and policies there. Consul's own service proves that an empty list from there is not a missing permission.
service "consul" {
  policy = "read"
}

# The primary: the lock and its epoch.
key_prefix "triton-sidecar/triton/election/" {
  policy = "read"
}

# The traffic policy; written by the guard of a release. With "read" everything except that works.
key "triton-sidecar/triton/policy" {
  policy = "write"
}
