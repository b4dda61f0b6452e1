"""The recipes that come with the package; ``rmbatch/training/recipe.py`` has their table."""
