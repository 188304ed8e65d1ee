"""What README and its pages show."""
