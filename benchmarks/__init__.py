"""Side-by-side measurements of this project against other frameworks."""
