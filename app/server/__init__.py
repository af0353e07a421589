"""uvicorn, and what is asked of it: ports, limits of size and time, sending without a copy, a good end."""
