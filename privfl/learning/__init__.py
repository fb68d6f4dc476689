"""Learning: the shelf of models, the training engines, and evaluation."""
