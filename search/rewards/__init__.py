"""What judges steps: process reward models, functions, verifiers, the policy itself, all behind `base.Reward`."""

from .base import Reward as Reward
from .base import Scorer as Scorer
from .base import ask as ask
from .base import parse_reward as parse_reward
from .base import register_reward as register_reward
from .function import FunctionReward as FunctionReward
from .function import FunctionScorer as FunctionScorer
from .function import Verifier as Verifier
from .judge import Judge as Judge
from .prm import PRM as PRM
from .self_certainty import SelfCertainty as SelfCertainty
