"""What developers run: notebooks regenerated, thumbnails drawn, a wheel checked."""
