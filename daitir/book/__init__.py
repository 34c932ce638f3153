"""What the chapters of the book use beside the method."""
