"""The client of Triton: its gRPC API and its stub processes, as values and protocols.

Imports runtime only, and is the one room besides local that imports tritonclient. Start reading at
`api.py`, then `client.py`.
"""
