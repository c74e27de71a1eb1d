"""The contract at work inside a worker: questions answered by stages, controls, traces."""
