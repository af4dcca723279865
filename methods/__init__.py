"""The methods that `bench` compares: one file each. `bench validate methods` checks them all."""
