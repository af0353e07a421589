"""What changed, and who is told of it."""
