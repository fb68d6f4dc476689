"""The network whose gradients are inverted."""
