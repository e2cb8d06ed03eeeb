"""The tables of the TOML files, one pydantic model each, and the rules that each makes for a room.

Imports what settings may import. Start reading at `core.py`; the larger tables have their own
files.
"""
