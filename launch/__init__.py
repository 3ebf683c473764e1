"""What starts the training, here and elsewhere."""
