"""What the detector is judged by: planted defects, and healthy changes that must pass.

The rows are data; the patches that they name live in `backends.faults`, because they run inside the
worker. Start at `catalogue`.
"""
