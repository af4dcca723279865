"""What executes the runs of a plan: here, worker processes on this machine."""
