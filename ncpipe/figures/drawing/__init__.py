"""What figures share: style, axes, series, words."""
