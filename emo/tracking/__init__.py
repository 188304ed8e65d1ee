"""What has been tried? The table of experiments."""
