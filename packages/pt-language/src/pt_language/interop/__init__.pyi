from .embeddings import (
    export_embeddings as export_embeddings,
    request_embeddings as request_embeddings,
    virtual_tokens as virtual_tokens,
)
from .foreign import Foreign as Foreign, read_foreign as read_foreign
from .incoming import build as build, import_peft as import_peft
from .outgoing import export_peft as export_peft
