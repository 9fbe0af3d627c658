"""Feeding and training models."""
