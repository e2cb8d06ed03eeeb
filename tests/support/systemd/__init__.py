"""A real systemd, as pid 1 of namespaces of its own: nothing is installed, and nothing is left."""
