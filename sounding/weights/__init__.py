"""Other people's weights: downloads, and files that are read without running anything in them."""


class WeightsError(ValueError):
    """A file or folder of weights that cannot be used; the message says what to do."""
