"""The report as a page: figures, sounds beside the reference, classes, a map of embeddings, the worst items."""
