"""Two processes of one gloo group that start as copies of this one: their imports cost nothing."""

import os
import socket

import torch
from accelerate.state import AcceleratorState


def run_in_two(function, *arguments):
    """Call a function in both processes; an exception in one ends both and is raised here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(_run, (port, function, arguments), nprocs=2, start_method="fork")


def _run(rank, port, function, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(reset_partial_state=True)
    function(*arguments)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
