from .api import Run as Run, fit as fit, load as load, load_many as load_many, study as study, wrap as wrap
from .backbones import adapt as adapt, list_backbones as list_backbones, load_backbone as load_backbone
from .data.load import load_text as load_text
from .data.templates import Template as Template
from .interop.incoming import import_peft as import_peft
from .interop.outgoing import export_peft as export_peft
from .methods.cpt import CPT as CPT, CPTConfig as CPTConfig
from .methods.full import FullConfig as FullConfig, FullFineTuning as FullFineTuning
from .methods.iapt import IAPT as IAPT, IAPTConfig as IAPTConfig
from .methods.icl import InContext as InContext, InContextConfig as InContextConfig
from .methods.lora import LoRA as LoRA, LoRAConfig as LoRAConfig
from .methods.p_tuning import PTuning as PTuning, PTuningConfig as PTuningConfig
from .methods.prefix import Prefix as Prefix, PrefixConfig as PrefixConfig
from .methods.prompt_tuning import PromptTuning as PromptTuning, PromptTuningConfig as PromptTuningConfig
from .options import DataOptions as DataOptions
from .server.prompts import PromptServer as PromptServer

__version__: str
