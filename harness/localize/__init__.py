"""Where a gap lies: which of the settings that differ carry it, and how much each."""
