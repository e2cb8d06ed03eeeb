"""A Consul 1.8 that answers as one of 1.10 and later does: it streams the health of services."""
