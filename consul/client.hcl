# The Consul agent on the machine of a Triton or of an Envoy; copy to /etc/consul.d/consul.hcl.
# Every key here is accepted by Consul 1.8 and later; docs/compatibility.md says which were tried.

datacenter = "dc1"
data_dir   = "/opt/consul"
server     = false
retry_join = ["consul-1.internal", "consul-2.internal", "consul-3.internal"]

# Only sidecars and control planes on this machine.
client_addr = "127.0.0.1"

# Each blocking query occupies a connection, and all programs on this machine have one
# address: a control plane has three for each service (instances, lock, policy) and one more for each
# datacenter that the service's policy names; a sidecar has one, for the election. Short requests keep
# two more open per program, and briefly some more. One control plane with 66 services uses up
# Consul's default of 200; beyond that connections are refused, and watches fail.
limits {
  http_max_conns_per_client = 2000
}

# Do not leave on restart. A client that leaves removes its node from the catalog,
# and with it the services and the session of a healthy primary. Both defaults are the opposite on
# a client.
leave_on_terminate      = false
skip_leave_on_interrupt = true

# The output of a check says why an instance is out; programs read it from the catalog.
discard_check_output = false

# A change of status is published at once. A change of the text alone waits for up to this long
# (default 5m), so it bounds the age of the reason shown in the web interface. A shorter interval costs a
# Raft write per instance and change of text.
check_update_interval = "30s"

acl {
  enabled        = true
  default_policy = "deny"

  # While the servers are unreachable, keep accepting cached tokens, so that a sidecar can
  # still withdraw its instance from this agent.
  down_policy = "extend-cache"

  # The agent's own token is set through the API (`consul acl set-agent-token agent …`) and kept in
  # data_dir, so that this file contains no secret.
  enable_token_persistence = true
}

# Do not check for new versions online.
disable_update_check = true

# Set bind_addr if the machine has more than one private address; Consul refuses to guess.
# Gossip encryption and TLS belong in a separate file in the same folder.
