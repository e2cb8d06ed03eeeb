"""The models room: which model files a Triton has loaded, and the digest of that model set.

Imports health and the layers below it: events, triton, verdict, runtime. Start reading at
`manifest.py`; the loop is `model_set_watch.py`.
"""
