"""A package, because an installed one of this name (sniffpy has one) would hide a mere folder."""
