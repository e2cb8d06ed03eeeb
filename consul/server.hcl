# A Consul server. One of three or five; copy to /etc/consul.d/consul.hcl.
# Every key here is accepted by Consul 1.8 and later; docs/compatibility.md says which were tried.

datacenter = "dc1"
data_dir   = "/opt/consul"

server           = true
bootstrap_expect = 3
retry_join       = ["consul-1.internal", "consul-2.internal", "consul-3.internal"]

# Raft timing for a real network instead of the five times slower default. While the
# servers have no leader no instance can take or keep the role of primary, so a short election matters.
performance {
  raft_multiplier = 1
}

# The HTTP API and the web interface stay on this machine; reach them through an SSH tunnel or a
# proxy that authenticates.
client_addr = "127.0.0.1"

# Agents need no more than the default allows (100 connections each, of which they use a few). For
# programs that query a server directly, `http_max_conns_per_client` applies as in client.hcl.

# Consul 1.9 and later prefer `ui_config { enabled = true }`, but 1.8 refuses to start with it.
# All versions start with this form; newer ones log a deprecation.
ui = true

acl {
  enabled        = true
  default_policy = "deny"

  # While the primary datacenter is unreachable, keep accepting cached tokens. The alternatives either
  # refuse every sidecar during an outage of Consul or admit every request.
  down_policy = "extend-cache"

  # Agent tokens are set through the API and kept in data_dir, so that this file contains no secret.
  enable_token_persistence = true
}

# Do not check for new versions online.
disable_update_check = true

# Set bind_addr if the machine has more than one private address; Consul refuses to guess.
# Gossip encryption and TLS belong in a separate file in the same folder: their keys are secrets,
# and Consul 1.12 renamed the TLS keys.
