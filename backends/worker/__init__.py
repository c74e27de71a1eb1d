"""The process that opens pipelines: its requests, its start by fork, its patches, what it read."""
