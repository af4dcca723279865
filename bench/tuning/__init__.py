"""Choosing hyper-parameters under a protocol: equal trials for every method, judged by validation classes alone."""
