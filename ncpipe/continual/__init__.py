"""Class-incremental learning: new classes for the classifier of a trained network, on its frozen features."""
