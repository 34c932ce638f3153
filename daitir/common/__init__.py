"""What everything else stands on: errors, files, the terminal."""
