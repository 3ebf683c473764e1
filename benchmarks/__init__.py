"""Side-by-side measurements of this project and other frameworks."""
