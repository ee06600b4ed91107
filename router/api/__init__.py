"""The HTTP side: one dialect a module, and the passage that all of them stream through."""
