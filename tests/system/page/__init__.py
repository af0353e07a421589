"""One package, so that its tests share one browser."""
