from .api import fit as fit, load as load, load_many as load_many, study as study, wrap as wrap
from .backbones import list_backbones as list_backbones, load_backbone as load_backbone
from .data.dataset import WindowDataset as WindowDataset
from .data.scenario import load_windows as load_windows
from .methods.codats import Codats as Codats, CodatsConfig as CodatsConfig
from .methods.common_prompt import CommonPrompt as CommonPrompt, CommonPromptConfig as CommonPromptConfig
from .methods.coral import CoralConfig as CoralConfig, DeepCoral as DeepCoral
from .methods.full import FullConfig as FullConfig, FullOnShots as FullOnShots
from .methods.pond import POND as POND, PONDConfig as PONDConfig
from .methods.source_only import SourceOnly as SourceOnly, SourceOnlyConfig as SourceOnlyConfig
from .options import DataOptions as DataOptions
from .pond.information import infonce as infonce, leave_one_out as leave_one_out

__version__: str
