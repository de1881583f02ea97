"""The stages of the recipe: each a function from stores to stores that may be repeated at any moment."""
