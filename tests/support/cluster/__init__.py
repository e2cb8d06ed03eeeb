"""A cluster in network namespaces of one machine, into which tests inject faults.

Start with `cluster.py`: three Consul servers, hosts with an agent, a Triton and a sidecar each,
and an edge with the control plane, Envoy and the clients, on two networks that can be cut.
"""
