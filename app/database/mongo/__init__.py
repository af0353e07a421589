"""Documents of MongoEngine, with their bytes in GridFS."""
