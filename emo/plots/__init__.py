"""What does it look like? Figures; each function gives its figure back."""
