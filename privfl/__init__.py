"""What was promised is measured: privacy-preserving federated learning."""
