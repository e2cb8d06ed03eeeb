# What `triton-sidecar xds` may do, for the service "triton". Beside its own entry it can change the
# traffic policy: it rolls back a release that does badly.

# Its own entry, by which draining sidecars find it.
service "triton-sidecar-xds" {
  policy = "write"
}

# The instances. A further service in `xds.services` needs a further rule.
service "triton" {
  policy = "read"
}

# Without it the health endpoint silently leaves out every instance: an entry is shown to a token that may
# read both its service and its node.
node_prefix "" {
  policy = "read"
}

# Datacenters that a policy names (`locality.datacenters`) have to grant the same to this token: replicate ACL tokens
# and policies there. Consul's own service proves that an empty list from there is no lack of rights.
service "consul" {
  policy = "read"
}

# Who is primary: the lock and its epoch.
key_prefix "triton-sidecar/triton/election/" {
  policy = "read"
}

# The traffic policy; written by the guard of a release. With "read" all but that works.
key "triton-sidecar/triton/policy" {
  policy = "write"
}
