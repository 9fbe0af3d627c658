"""Xenium bundles: layouts, reading, checking, simulating."""
