"""quantlab: decide how to quantize a model's weights, and write the result down.

>>> import numpy as np, quantlab as ql
>>> x = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32)
>>> q = ql.quantize(x, ql.QuantConfig(dtype="int4", granularity=ql.PerGroup(32), calibration=ql.MSE()))
>>> q.bits_per_weight
5.0
>>> ql.evaluate(x, q.config).sqnr_db > 20
True
"""

from .core.calibration import CALIBRATIONS, EMA, MSE, Entropy, Exact, MinMax, MovingAverage, Octav, Percentile
from .core.config import PRESETS, QuantConfig, combinations, grid
from .core.dtypes import DTYPES, MAPPINGS
from .core.granularity import PerChannel, PerGroup, PerTensor
from .core.metrics import METRICS, ErrorReport, evaluate, measure
from .core.observer import DynamicQuantizer, Observer
from .core.packing import pack, unpack
from .core.tensor import QuantizedTensor, fake_quantize, quantize
from .errors import (
    BudgetError,
    CalibrationRequiredError,
    Cancelled,
    CheckpointError,
    ClusterError,
    ConfigError,
    DTypeError,
    EmptyTensorError,
    ExportError,
    LimitError,
    NonFiniteError,
    PackingError,
    QuantlabError,
    ShapeError,
    StoreError,
)
from .formats import Checkpoint, export, load_packed, open_checkpoint
from .formats.output.manifest import VERSION
from .planning.audit import Audit, audit
from .planning.plan import Plan
from .planning.planfile import load_plan
from .planning.planner import plan, problem
from .planning.problem import Problem
from .planning.recipes import RECIPES, Recipe, recipe
from .planning.targets import TARGETS
from .reporting import Report, report
from .sweeping.findings import findings
from .sweeping.sampled import sampled
from .sweeping.store import ResultStore, SweepRecord
from .sweeping.sweep import sweep
from .sweeping.tables import total

__version__ = VERSION

__all__ = [
    "CALIBRATIONS",
    "DTYPES",
    "EMA",
    "MAPPINGS",
    "METRICS",
    "MSE",
    "PRESETS",
    "RECIPES",
    "TARGETS",
    "Audit",
    "BudgetError",
    "CalibrationRequiredError",
    "Cancelled",
    "Checkpoint",
    "CheckpointError",
    "ClusterError",
    "ConfigError",
    "DTypeError",
    "DynamicQuantizer",
    "EmptyTensorError",
    "Entropy",
    "ErrorReport",
    "Exact",
    "ExportError",
    "LimitError",
    "MinMax",
    "MovingAverage",
    "NonFiniteError",
    "Observer",
    "Octav",
    "PackingError",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Percentile",
    "Plan",
    "Problem",
    "QuantConfig",
    "QuantizedTensor",
    "QuantlabError",
    "Recipe",
    "Report",
    "ResultStore",
    "ShapeError",
    "StoreError",
    "SweepRecord",
    "audit",
    "combinations",
    "evaluate",
    "export",
    "fake_quantize",
    "findings",
    "grid",
    "load_packed",
    "load_plan",
    "measure",
    "open_checkpoint",
    "pack",
    "plan",
    "problem",
    "quantize",
    "recipe",
    "report",
    "sampled",
    "sweep",
    "total",
    "unpack",
]
