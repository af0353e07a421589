"""The one range-request helper: request headers and a FileInfo become an answer, the same for every route."""
