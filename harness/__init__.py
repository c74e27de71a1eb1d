"""What a comparison means: plan, run store, metrics, verdict, report.

Backends are named by strings only; torch and the stacks live in worker processes.
"""
