"""The designs that people run in front of several Tritons, and this project: one run, same faults.

    python -m benchmarks.peers --designs nginx_backup ours --scenarios crash freeze

Start with design.py (what a design is); each has a folder with the files that its operators would
write. hosts.py runs Tritons and Consul in network namespaces, faults.py injects, run.py measures
one design under one fault, and tables.py makes the tables of docs/comparison.md.
"""
