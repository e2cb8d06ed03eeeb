"""The wiring of `triton-sidecar run`: the only room that knows all parts of a sidecar.

It may import every room below it, settings included; only the command line imports it.
Start with sidecar.py, which builds the parts and their loops; shutdown.py is the order of stopping.

Acts throughout.
"""
