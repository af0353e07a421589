"""The GridFS backend: stored files are documents of MongoEngine, with their bytes in a GridFS bucket."""
