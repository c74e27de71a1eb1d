"""Diffusers: one adapter for every placement, and around a pipeline that somebody made."""
