"""Training of the networks a study declares, and the forward passes that measure them."""
