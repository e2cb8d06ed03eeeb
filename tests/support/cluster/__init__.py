"""A cluster in network namespaces of one machine, to be broken on purpose.

`cluster.py` is the door to it: three Consul servers, hosts with an agent, a Triton and a sidecar
each, and an edge with the control plane, Envoy and the clients, on two networks that can be cut.
"""
