# The Consul agent beside a Triton, or beside an Envoy; copy to /etc/consul.d/consul.hcl.
# Every key here is accepted by Consul 1.8 and later; docs/compatibility.md says which were tried.

datacenter = "dc1"
data_dir   = "/opt/consul"
server     = false
retry_join = ["consul-1.internal", "consul-2.internal", "consul-3.internal"]

# Sidecars and control planes on this machine, nobody else.
client_addr = "127.0.0.1"

# Each query that waits for news occupies a connection, and all programs of this machine have one
# address: a control plane has three for each service (instances, lock, policy) and one more for each
# datacenter that the service's policy names; a sidecar has one, for the election. Short requests keep
# two more of each program open, and for moments some more. One control plane with 66 services uses up
# Consul's default of 200; from then on connections are refused, and watches fail.
limits {
  http_max_conns_per_client = 2000
}

# A restart of the agent is not a departure. A client that leaves takes its node out of the catalog,
# and with it the services and the session of a healthy primary. Both defaults are the other way on
# a client.
leave_on_terminate      = false
skip_leave_on_interrupt = true

# The output of a check says why an instance is out; it has to reach the catalog to be read.
discard_check_output = false

# A change of status is published at once. A change of the text alone waits for up to this long
# (default 5m), so it bounds how old the reason shown in the web interface can be. Shorter costs a
# Raft write per instance and change of text.
check_update_interval = "30s"

acl {
  enabled        = true
  default_policy = "deny"

  # With the servers out of reach, go on believing the tokens already seen, so that a sidecar can
  # still withdraw its instance from this agent.
  down_policy = "extend-cache"

  # The agent's own token is set through the API (`consul acl set-agent-token agent …`) and kept in
  # data_dir, so that no secret stands in here.
  enable_token_persistence = true
}

# No call home for new versions.
disable_update_check = true

# Set bind_addr where the machine has more than one private address; Consul refuses to guess.
# Gossip encryption and TLS belong in a file of their own beside this one.
