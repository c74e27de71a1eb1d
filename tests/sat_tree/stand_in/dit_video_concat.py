"""Stand-in: present in a checkout, empty here."""
