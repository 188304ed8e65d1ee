"""What does a shell ask for?"""
