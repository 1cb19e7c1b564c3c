"""What selects an object: points for and against, a box, words."""

from __future__ import annotations

from dataclasses import dataclass

from .points import MAX_POINTS, Box, Point, parse, read_box, read_points


@dataclass(frozen=True)
class Prompt:
    """A selection of one object, all in pixels of the image; its kinds may be combined."""

    positive: tuple[Point, ...] = ()  # (x, y)
    negative: tuple[Point, ...] = ()
    box: Box | None = None  # x0, y0, x1, y1
    text: str = ""  # only SAM 3 understands words

    @classmethod
    def from_strings(cls, positive: str, negative: str = "", box: str = "", text: str = "") -> Prompt:
        """Read the strings that points editors write.

        Args:
            positive: JSON as KJNodes' points editor and ComfyUI's SAM 3 nodes have it, `[{"x": 10, "y": 20}, ...]`,
                or bare pairs `[[10, 20], ...]`; empty is none. Labels are understood, see `points.read_points`.
            negative: the same, of points that are not on the object.
            box: JSON of one box, see `points.read_box`.
            text: words, left as they are.

        Raises:
            ValueError: not such a JSON.
        """
        on, off = read_points(parse(positive, "positive"), parse(negative, "negative"))
        return cls(on, off, read_box(parse(box, "box")), text.strip())

    def check(self, size: tuple[int, int], name: str, *, words: bool = False) -> None:
        """Whether a segmenter can use it on an image of `size` (height, width).

        Args:
            size: of the image.
            name: the segmenter's, for the message.
            words: whether it understands text.

        Raises:
            ValueError: it says nothing, lies outside of the image, or is text for a segmenter without words.
        """
        height, width = size
        if self.text and not words:
            raise ValueError(f"{name} got the text {self.text!r}, but understands points and boxes only; use SAM 3.")
        if not (self.positive or self.box or self.text):
            raise ValueError(
                f"{name} got no point on the object{', no text' if words else ''} and no box, but something to select "
                "is expected; click on the object."
            )
        if len(self.positive) + len(self.negative) > MAX_POINTS:
            raise ValueError(
                f"{name} got {len(self.positive) + len(self.negative)} points, but at most {MAX_POINTS} are expected; "
                "leave some out."
            )
        for x, y in (*self.positive, *self.negative):
            if not (0 <= x <= width and 0 <= y <= height):
                raise ValueError(
                    f"The point ({x:g}, {y:g}) is outside of the image, which has {width} x {height} pixels; give "
                    "pixels of this very image."
                )
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise ValueError(
                    f"The box {x0:g}, {y0:g}, {x1:g}, {y1:g} does not lie in the image of {width} x {height} pixels "
                    "with its corners in order; give x0, y0, x1, y1."
                )
