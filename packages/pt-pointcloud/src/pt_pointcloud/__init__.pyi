from .api import fit as fit, load as load, load_many as load_many, study as study, wrap as wrap
from .backbones import list_backbones as list_backbones, load_backbone as load_backbone
from .data.dataset import PointDataset as PointDataset
from .data.load import load_clouds as load_clouds
from .methods.full import FullConfig as FullConfig, FullFineTuning as FullFineTuning
from .methods.idpt import IDPT as IDPT, IDPTConfig as IDPTConfig
from .methods.idpt_seg import IDPTSeg as IDPTSeg, IDPTSegConfig as IDPTSegConfig
from .methods.linear import LinearConfig as LinearConfig, LinearProbe as LinearProbe
from .methods.linear_seg import LinearSegConfig as LinearSegConfig, LinearSegProbe as LinearSegProbe
from .methods.vpt import VPT as VPT, VPTConfig as VPTConfig
from .options import DataOptions as DataOptions

__version__: str
