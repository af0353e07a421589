"""What may be asked of stored files. Knows nothing of HTTP, of databases, or of the rest of this program."""
