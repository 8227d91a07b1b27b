"""Adapters: a small file with all that training added to a backbone, and what it takes to use it.

An adapter holds the kept prompts, the head, and a description: the backbone's name and the
fingerprint of its weights, class names, preprocessing, where it comes from. It does not hold the
backbone. A file is untrusted input: nothing in it can run code, name another file or an address, or
make a model that this machine has no room for.
"""

from pcvpt.adapters.description import Adapter
from pcvpt.adapters.load import load_adapter
from pcvpt.adapters.save import save_adapter

__all__ = ["Adapter", "load_adapter", "save_adapter"]
