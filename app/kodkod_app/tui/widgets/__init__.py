"""What the chat screen is made of: one noun, one file."""
