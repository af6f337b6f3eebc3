"""The command line and the Python API that every package shares; one file per command."""
