"""What becomes of single cues under encoders: features and maps, where nothing is ranked."""
