"""The scenarios that drills know: what is injected, and the hypothesis about it.

May import drill's injections and stage. Start reading at `catalog.py`.

Acts throughout.
"""
