"""Model folders of Diffusers' format, read and written."""
