"""Checks that `make check` runs on files that are no tests: imports, Envoy and deployment files.

`pure_modules.py` is a contract of import-linter; the others are programs that print problems.
"""
