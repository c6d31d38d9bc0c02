"""Images in and out of files: numpy only."""
