"""Tree search: `TreeSearch`, its strategies and its reward models."""

from .functions import register_function as register_function
from .node import Frontier as Frontier
from .node import Node as Node
from .node import Selection as Selection
from .rewards import PRM as PRM
from .rewards import FunctionReward as FunctionReward
from .rewards import FunctionScorer as FunctionScorer
from .rewards import Judge as Judge
from .rewards import Reward as Reward
from .rewards import Scorer as Scorer
from .rewards import SelfCertainty as SelfCertainty
from .rewards import Verifier as Verifier
from .rewards import register_reward as register_reward
from .strategies import DVTS as DVTS
from .strategies import ETS as ETS
from .strategies import Beam as Beam
from .strategies import BestOfN as BestOfN
from .strategies import Rebase as Rebase
from .strategies import Strategy as Strategy
from .strategies import register_strategy as register_strategy
from .tree_search import TreeSearch as TreeSearch
