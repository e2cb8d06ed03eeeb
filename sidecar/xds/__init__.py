"""The control plane: from Consul's catalog to Envoy's configuration."""
