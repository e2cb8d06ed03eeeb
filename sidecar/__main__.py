"""`python -m sidecar` is `triton-sidecar`.

Acts: through what it imports or is given.
"""

from sidecar.cli.main import main

if __name__ == "__main__":
    main()
