"""A fixed-protocol benchmark for deep metric learning."""

__version__ = "0.1.0"
