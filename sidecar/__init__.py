"""Health, registration and failover for Triton Inference Server, with Consul and Envoy."""

__version__ = "0.1.0"
