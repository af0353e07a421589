"""The range-request helper: request headers and a FileInfo become a response, the same for every route."""
