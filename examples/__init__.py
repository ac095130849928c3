"""Examples: run them from a checkout, as `python -m examples.NAME`."""
