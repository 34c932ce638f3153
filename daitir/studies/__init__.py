"""What is measured: profiles, query sets and the studies whose tables the book shows."""
