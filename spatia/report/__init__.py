"""Figures, the report page, files for viewers."""
