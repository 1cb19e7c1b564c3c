"""The interactive node: click on objects in an image."""
