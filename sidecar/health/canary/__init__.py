"""Canaries: inferences with known answers, how they are derived and varied, and how answers count.

Imports what health may import, and reads files in `input_files.py` only. Start reading at
`definition.py`.
"""
