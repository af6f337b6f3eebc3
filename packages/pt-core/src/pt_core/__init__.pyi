from .backbone import (
    Add as Add,
    Backbone as Backbone,
    Claim as Claim,
    Edit as Edit,
    Edits as Edits,
    Features as Features,
    Insert as Insert,
    KeyValue as KeyValue,
    Layout as Layout,
    Replace as Replace,
)
from .data import Batch as Batch, Dataset as Dataset
from .errors import UserError as UserError
from .fingerprint import Fingerprint as Fingerprint
from .kernels import prompt_attention as prompt_attention, reference_kernels as reference_kernels
from .lowered import LoweredEdits as LoweredEdits
from .method import Method as Method
from .prompts import PromptBank as PromptBank, PromptTokens as PromptTokens
from .stage import Optimiser as Optimiser, Stage as Stage, StepOutput as StepOutput, Stream as Stream
from .task import Evaluator as Evaluator, Task as Task

__version__: str
