"""How a tree search shares out its samples: one file per strategy, all behind `base.Strategy`."""

from .base import Strategy as Strategy
from .base import parse_strategy as parse_strategy
from .base import register_strategy as register_strategy
from .base import select as select
from .beam import Beam as Beam
from .best_of_n import BestOfN as BestOfN
from .dvts import DVTS as DVTS
from .ets import ETS as ETS
from .rebase import Rebase as Rebase
