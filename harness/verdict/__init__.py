"""The procedure: which evidence a pair needs, in which order, until it is decided."""
