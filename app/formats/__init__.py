"""Container and codec formats, pure: bytes in, values out. What media and live share."""
