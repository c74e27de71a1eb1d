"""Evidence, decisions and causes, from records and arrays alone: nothing here reads a store or asks."""
