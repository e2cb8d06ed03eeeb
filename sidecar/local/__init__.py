"""A whole mesh on one machine, of real Consul, Envoy and Triton: `local up` and `make demo`.

It may import all rooms but `cli`, and reads no settings.
Start with launch.py, which starts a mesh; planning/ decides, processes/ runs, programs/ fetches.
"""
