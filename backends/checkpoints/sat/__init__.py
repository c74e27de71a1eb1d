"""Model folders of SAT's format, read and written."""
