"""The harness's ends of its worker processes."""
