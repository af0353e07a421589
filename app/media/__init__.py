"""What is known of films and music beyond their bytes."""
