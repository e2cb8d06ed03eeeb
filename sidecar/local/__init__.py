"""A whole mesh on one machine: real Consul, Envoy and Triton."""
