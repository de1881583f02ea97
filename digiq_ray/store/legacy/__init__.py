"""The original's ``.pt`` trajectory files and task lists: read without unpickling anything, and written."""
