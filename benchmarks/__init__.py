"""Speed: this project side by side with other frameworks, and what a start costs with a large text."""
