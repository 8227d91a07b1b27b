"""A clean end for the processes of a run on several devices."""

import atexit
import gc

import torch.distributed as dist


def leave_group_at_exit() -> None:
    """Have this process destroy its process group, if there is one, before Python shuts down.

    Only for a process whose exchanges with the others are complete: it waits for those that are
    under way.

    A thread of gloo may still drop the tensors of the last exchange while Python shuts down, and
    then aborts the process, whose work is done, with SIGABRT (seen in one of 25 runs on a busy
    machine). Launchers take that for a failure. Lightning destroys the group for NCCL alone.
    """
    atexit.unregister(_leave)  # once is enough
    atexit.register(_leave)


def _leave() -> None:
    if not (dist.is_available() and dist.is_initialized()):
        return
    gc.collect()  # cycles around the Trainer hold the group, and with it its threads
    dist.destroy_process_group()
