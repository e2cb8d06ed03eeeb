"""How faults are caused to a mesh, and removed. Each is an async context manager on a stage.

May import drill's stage and what is below local. Start reading at `processes.py`.
"""
