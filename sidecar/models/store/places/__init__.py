"""The places that stores can be in: a folder, or a bucket of S3.

Imports the documents. Start reading at `backend.py`, which says what a place has to offer;
`location.py` opens one.
"""
