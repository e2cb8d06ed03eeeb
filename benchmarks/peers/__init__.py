"""The designs that people run in front of several Tritons, and this project: one run, same faults.

    python -m benchmarks.peers --designs nginx_backup ours --scenarios crash freeze

Start with design.py (what a design is); each has a folder with the files that its operators would
write. site.py and hosts.py put it on a cluster of this project's drills, faults.py injects what
drills inject, run.py measures one design under one fault, store.py keeps the results in
results.json, and tables.py makes the tables of docs/comparison.md.
"""
