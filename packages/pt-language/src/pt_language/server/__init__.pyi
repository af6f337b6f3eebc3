from .prompts import PromptServer as PromptServer
from .request import Completion as Completion, Request as Request
from .tenant import Limits as Limits, Tenant as Tenant, TooLong as TooLong, UnknownPrompt as UnknownPrompt
