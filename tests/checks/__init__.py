"""Checks that `make check` runs besides the tests: imports, Envoy and deployment files.

`pure_modules.py` is an import-linter contract; the others are programs that print problems.
"""
