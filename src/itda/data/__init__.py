"""What flows between the steps, and how it is kept on disk."""
