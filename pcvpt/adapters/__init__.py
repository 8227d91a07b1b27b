"""Adapters: a small file with all that training added to a backbone, but not the backbone.

A file is untrusted input: nothing in it can run code, name another file or an address, or make a
model that does not fit into the memory of this machine.
"""

from pcvpt.adapters.adapter import Adapter
from pcvpt.adapters.export import ExportedModel, load_exported
from pcvpt.adapters.load import load_adapter
from pcvpt.adapters.save import save_adapter
from pcvpt.adapters.serve import TaskServer, serve

__all__ = [
    "Adapter",
    "ExportedModel",
    "TaskServer",
    "load_adapter",
    "load_exported",
    "save_adapter",
    "serve",
]
