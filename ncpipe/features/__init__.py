"""Features of trained networks, and their statistics."""
