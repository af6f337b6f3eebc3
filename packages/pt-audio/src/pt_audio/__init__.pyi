from .adapters.logmel import LogMel as LogMel
from .api import Run as Run, fit as fit, load as load, load_many as load_many, study as study, wrap as wrap
from .backbones import list_backbones as list_backbones, load_backbone as load_backbone
from .data.load import load_audio as load_audio
from .methods.acoustic_apt import AcousticAPT as AcousticAPT, AcousticAPTConfig as AcousticAPTConfig
from .methods.projector import Projector as Projector, ProjectorConfig as ProjectorConfig
from .options import DataOptions as DataOptions

__version__: str
