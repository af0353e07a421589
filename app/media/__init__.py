"""Playlists, and the HLS playlists and DASH manifests among the stored files."""
