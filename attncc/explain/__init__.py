"""Pattern → what the compiler sees in it and what it costs, as data, in words and as a page."""

from attncc.explain.found import Explanation, explain

__all__ = ["Explanation", "explain"]
