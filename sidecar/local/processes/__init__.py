"""The processes of a mesh: started, probed, restarted, stopped, and cleaned up after.

It may import what `local` may, and takes its orders from plans of `local/planning`.
Start with supervisor.py, which runs all parts; runner.py keeps one running.
"""
