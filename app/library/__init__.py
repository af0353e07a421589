"""What the library knows of files beyond their bytes: what kind they are, and the rules for changing them."""
