"""The plan of a run and its renders, carried out."""
