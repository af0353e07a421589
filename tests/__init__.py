"""A package, because some libraries install one of that name."""
