"""The folders of models: what is in one that is pushed, and how the files of a pulled one are made.

Imports the documents and the places. Start reading at `scan.py`.
"""
