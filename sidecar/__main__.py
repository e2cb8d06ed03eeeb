"""`python -m sidecar` is `triton-sidecar`."""

from sidecar.cli.main import main

if __name__ == "__main__":
    main()
