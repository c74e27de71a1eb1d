"""What users call from Python: comparisons, goldens, and the gate for pytest."""
