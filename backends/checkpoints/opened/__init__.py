"""Any checkpoint opened for comparison, under canonical names."""
