"""The programs of a mesh: Consul, Envoy and Triton, found or fetched and verified.

It may import only the standard library and `runtime.errors`: no environment exists yet.
Start with parts.py, which finds or provides each program.
"""
