"""Operations on stored files. Knows nothing of HTTP, of databases, or of paths on a disk."""
