"""This process's connections and rooms."""
