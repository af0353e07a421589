"""uvicorn and our HTTP/1.1 connection: sockets, limits, deadlines, zero-copy sending, graceful shutdown."""
