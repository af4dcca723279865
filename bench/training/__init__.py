"""One run's training: random streams, parts of the training side, the loop, checkpoints."""
