"""Parts of an index merged in any order and tree give what all of it gives at once; what does not is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncc.ir.cascade import ONE, Cascade, Choose, Equation, Expr, Literal, Reduce, number
from attncc.ir.check import check
from attncc.ir.logic import plus, times
from attncc.passes import operator
from attncc.passes.operator import Operator, State
from attncc.pipeline import meaning
from attncc.source import Source
from attncc.verify import certificate as module
from attncc.verify import verify
from attncc.verify.certificate import NEAR, certify
from attncc.verify.parts import PARTS, TILES, Operated, splits
from attncc.verify.report import Wrong
from attncc.verify.sizes import off
from tests.strategies import Drawn, patterns
from tests.test_pipeline import NAMES
from tests.verify.test_verify import source

RECURRENT = {"gla"}
"""Patterns that hold a state from position to position and reduce over no sequence."""

GROWING = {"gated_delta"}
"""Outputs that rounding grows in: every value is corrected by all before it, and keys drawn are not of length 1."""
