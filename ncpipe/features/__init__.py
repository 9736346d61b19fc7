"""Forward passes that measure trained networks: features, statistics, robustness."""
