"""Encoders: image to patches, text or sound to a query."""
