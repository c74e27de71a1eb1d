"""Faults planted into a copy of a user's own reference: what the gate would catch there."""
