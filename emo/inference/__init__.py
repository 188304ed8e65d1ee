"""What does it say of a photo? A saved model's answers for photos, faces, videos, and for other runtimes."""
