"""Films and music beyond their bytes: playlists, and the manifests of HLS and DASH presentations."""
