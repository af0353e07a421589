"""What is measured, side by side: `make bench`."""
