"""Envoy's Lua filters, each with the Python module that configures it.

May import what `config` may; `messages.lua` is common to both scripts.
Start with `quarantine_filter.py` and `sequence_filter.py`, then the scripts of these names.
"""
