from .api import fit as fit, load as load, load_many as load_many
from .backbones import list_backbones as list_backbones, load_backbone as load_backbone
from .data import DataOptions as DataOptions, ImageDataset as ImageDataset, load_images as load_images
from .methods.segmentation.coda import CoDA as CoDA, CoDAConfig as CoDAConfig
from .methods.segmentation.dvpt_seg import DVPTSeg as DVPTSeg, DVPTSegConfig as DVPTSegConfig
from .methods.segmentation.linear_seg import LinearSegConfig as LinearSegConfig, LinearSegProbe as LinearSegProbe
from .methods.segmentation.self_training import SelfTraining as SelfTraining, SelfTrainingConfig as SelfTrainingConfig
from .methods.segmentation.source_only import SourceOnly as SourceOnly, SourceOnlyConfig as SourceOnlyConfig
from .methods.vit.dvpt import DVPT as DVPT, DVPTConfig as DVPTConfig
from .methods.vit.full import FullConfig as FullConfig, FullFineTuning as FullFineTuning
from .methods.vit.linear import LinearConfig as LinearConfig, LinearProbe as LinearProbe
from .methods.vit.vpt import VPT as VPT, VPTConfig as VPTConfig
from .methods.vit.vpt_pixel import VPTPixel as VPTPixel, VPTPixelConfig as VPTPixelConfig
from .segmentation.data import SegmentationDataset as SegmentationDataset

__version__: str
