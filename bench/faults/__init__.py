"""What becomes of damaged input, and of machines that fail."""
