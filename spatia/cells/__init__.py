"""Cells of a slide: outlines, crops, grids, quality. Pure functions of arrays and tables."""
