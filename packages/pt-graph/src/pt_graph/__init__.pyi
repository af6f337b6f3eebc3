from .api import fit as fit, load as load, load_many as load_many, study as study, wrap as wrap
from .backbones import list_backbones as list_backbones, load_backbone as load_backbone
from .data.arrays import save_graphs as save_graphs
from .data.dataset import GraphDataset as GraphDataset
from .data.load import load_graphs as load_graphs
from .data.pyg import from_pyg as from_pyg
from .graphs.batch import Graphs as Graphs
from .methods.all_in_one import AllInOne as AllInOne, AllInOneConfig as AllInOneConfig
from .methods.full import FullConfig as FullConfig, FullFineTuning as FullFineTuning
from .methods.gpf import GPF as GPF, GPFConfig as GPFConfig
from .methods.gpf_plus import GPFPlus as GPFPlus, GPFPlusConfig as GPFPlusConfig
from .methods.gppt import GPPT as GPPT, GPPTConfig as GPPTConfig
from .methods.graph_prompt import GraphPrompt as GraphPrompt, GraphPromptConfig as GraphPromptConfig
from .methods.linear import LinearConfig as LinearConfig, LinearProbe as LinearProbe
from .methods.relief import RELIEF as RELIEF, RELIEFConfig as RELIEFConfig
from .methods.supt import SUPT as SUPT, SUPTConfig as SUPTConfig
from .options import DataOptions as DataOptions

__version__: str
