"""How a CogVideoX model runs: the stage contract, the noise tape, and one adapter per stack.

This package knows torch and the stacks; it knows nothing of metrics or verdicts and imports nothing
from `harness`. Importing it is cheap: torch and the stacks are imported when a pipeline is opened.
"""
