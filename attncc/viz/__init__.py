"""A pattern's mask as a picture: SVG, PNG, a page, and what a notebook shows."""

from attncc.viz.colours import LEGEND
from attncc.viz.mask import Drawn, Unseen, draw, fitting, picture

__all__ = ["LEGEND", "Drawn", "Unseen", "draw", "fitting", "picture"]
