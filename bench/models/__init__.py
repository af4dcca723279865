"""Trunks, their weights, and cached features of frozen trunks."""
