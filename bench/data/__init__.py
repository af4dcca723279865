"""Data sets, the decoded-image cache, the seal over the test split, batch samplers and transforms."""
