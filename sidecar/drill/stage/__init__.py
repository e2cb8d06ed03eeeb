"""What drills are run on: a real mesh, with operations on its parts and checks of its state.

May import local and what is below it. Start reading at `mesh.py`.
"""
