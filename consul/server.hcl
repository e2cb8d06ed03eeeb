# A Consul server. One of three or five; copy to /etc/consul.d/consul.hcl.
# Every key here is accepted by Consul 1.8 and later; docs/compatibility.md says which were tried.

datacenter = "dc1"
data_dir   = "/opt/consul"

server           = true
bootstrap_expect = 3
retry_join       = ["consul-1.internal", "consul-2.internal", "consul-3.internal"]

# Raft at the speed of a real network instead of the default's five times slower one. While the
# servers have no leader nobody can take or keep the role of primary, so a short vote matters.
performance {
  raft_multiplier = 1
}

# The HTTP API and the web interface stay on this machine; reach them through an SSH tunnel or a
# proxy that authenticates.
client_addr = "127.0.0.1"

# Agents need no more than the default allows (100 connections each, of which they use a few). For
# programs that ask a server itself, `http_max_conns_per_client` counts as in client.hcl.

# `ui_config { enabled = true }` is what Consul 1.9 and later want, and 1.8 refuses to start with it.
# This form starts all of them; the newer ones log a deprecation.
ui = true

acl {
  enabled        = true
  default_policy = "deny"

  # While the primary datacenter cannot be reached, go on believing the tokens already seen. The alternatives either
  # refuse every sidecar during an outage of Consul or let everybody in.
  down_policy = "extend-cache"

  # Agent tokens are set through the API and kept in data_dir, so that no secret stands in here.
  enable_token_persistence = true
}

# No call home for new versions.
disable_update_check = true

# Set bind_addr where the machine has more than one private address; Consul refuses to guess.
# Gossip encryption and TLS belong in a file of their own beside this one: their keys are secrets,
# and Consul 1.12 renamed the TLS keys.
