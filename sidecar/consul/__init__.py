"""Access to Consul: the client, its values and protocol, and the loop of blocking queries.

It may import `runtime` alone.
Start with api.py, which has the values and the protocol; client.py implements it.
"""
