"""LoRA files of either format, read, written and converted."""
