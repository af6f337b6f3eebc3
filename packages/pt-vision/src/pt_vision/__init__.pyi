from .api import fit as fit, load as load, load_many as load_many, study as study, wrap as wrap
from .backbones import list_backbones as list_backbones, load_backbone as load_backbone
from .data.dataset import ImageDataset as ImageDataset
from .data.load import load_images as load_images
from .methods.classification.dvpt import DVPT as DVPT, DVPTConfig as DVPTConfig
from .methods.classification.full import FullConfig as FullConfig, FullFineTuning as FullFineTuning
from .methods.classification.linear import LinearConfig as LinearConfig, LinearProbe as LinearProbe
from .methods.classification.vpt import VPT as VPT, VPTConfig as VPTConfig
from .methods.classification.vpt_pixel import VPTPixel as VPTPixel, VPTPixelConfig as VPTPixelConfig
from .methods.clip.coop import CoOp as CoOp, CoOpConfig as CoOpConfig
from .methods.clip.zero_shot import ZeroShot as ZeroShot, ZeroShotConfig as ZeroShotConfig
from .methods.segmentation.coda import CoDA as CoDA, CoDAConfig as CoDAConfig
from .methods.segmentation.dvpt_seg import DVPTSeg as DVPTSeg, DVPTSegConfig as DVPTSegConfig
from .methods.segmentation.linear_seg import LinearSegConfig as LinearSegConfig, LinearSegProbe as LinearSegProbe
from .methods.segmentation.self_training import SelfTraining as SelfTraining, SelfTrainingConfig as SelfTrainingConfig
from .methods.segmentation.source_only import SourceOnly as SourceOnly, SourceOnlyConfig as SourceOnlyConfig
from .options import DataOptions as DataOptions
from .segmentation.data.dataset import SegmentationDataset as SegmentationDataset
from .segmentation.task import Segmentation as Segmentation

__version__: str
