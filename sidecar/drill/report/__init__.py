"""What people and programs get of a record: a page, text, JUnit XML, and a comparison of two.

May import `sidecar/drill/record.py` and `samples.py`. Start reading at `figures.py` (how a figure
is named and printed), then `page.py`.
"""
