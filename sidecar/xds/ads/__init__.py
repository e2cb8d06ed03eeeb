"""The xDS transport protocol as state machines without I/O, in both variants: delta and SotW.

May import `config` and `catalog`; `envoys` runs these machines on gRPC streams.
Start with `subscription.py` (one type on a stream), then `ads_stream.py` (all types, in order).
"""
