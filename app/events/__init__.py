"""The change feed: publishes changes of stored files, and delivers them to connected clients."""
