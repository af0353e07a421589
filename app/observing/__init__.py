"""What operators see: what is asked and answered, how long the database takes, what waits."""
