"""What is kept: renders and answers by content, leases, checksums, cleaning."""
