"""A package, because some dependencies install a top-level `tests` package."""
